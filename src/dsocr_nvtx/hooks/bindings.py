"""Which methods of a model are hooked: its modules found by structure, walked beside the tree of layer descriptions.

A table says under which attribute each layout keeps a part; no class name is asked for, so the native network, the
vendor's and deepseek_ocr2 bind alike. A part that should be there and is not is refused.
"""

from typing import Any

from attrs import evolve, field, frozen
from torch import nn

from dsocr_nvtx.analytic.build import build_analytic_layers_from_config
from dsocr_nvtx.analytic.layer import Child, Layer
from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.analytic.sam import ImageEncoderViT
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.hooks.sites import Binding, Site, number_sites
from dsocr_nvtx.hooks.weights import element_type, refuse_adapters, stored_network
from dsocr_nvtx.schema.records import CallShape, LayerKind, Level
from dsocr_nvtx.schema.shapes import SERVED

MISSING = "hooks bind to the native and the vendor's DeepSeek-OCR network; check the model's class and version"

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "text": ("language_model.model", "language_model", ""),
    "sam": ("vision_tower.sam_encoder", "sam_model"),
    "clip": ("vision_tower.vision_encoder", "vision_model"),
    "projector": ("multi_modal_projector", "projector"),
    "blocks": ("layers", "blocks", "encoder.layers", "transformer.layers"),
    "embed": ("embed_tokens",),
    "decoder.norm": ("norm",),
    "decoder.rotary": ("rotary_emb",),
    "rotary": ("rotary_emb",),
    "lm_head": ("lm_head",),
    "norm1": ("layer_norm1", "norm1"),
    "norm2": ("layer_norm2", "norm2"),
    "attention": ("self_attn", "attn"),
    "pre_norm": ("pre_layrnorm",),
    "input_norm": ("input_layernorm",),
    "post_norm": ("post_attention_layernorm",),
    "moe": ("mlp",),
}
"""Attributes under which layouts keep a part; the first that exists is taken. A part not named here has its own name;
an empty attribute is the module itself."""

OPTIONAL = ("decoder.rotary",)
"""Parts that a layout may compute elsewhere: the vendor's attentions make their own rotary embedding."""

_IMAGE_FEATURES = ("get_image_features", "embed_multimodal")
"""Methods by which layouts encode a page's images, if they have one."""

_ORDER = list(Level)


@frozen(kw_only=True)
class HookedNetwork:
    """A model's bindings, the description that they follow, and its decoder's configuration.

    ``experts`` are the bindings of routed experts at level ``op``, hooked or not; ``lists_experts``: the layout runs
    them one by one, in a loop. ``towers`` are the decoder and the two encoders, by the path of their entry.
    """

    bindings: list[Binding]
    experts: list[Binding]
    network: DeepseekOCRModel
    config: Any
    lists_experts: bool
    towers: dict[str, nn.Module]

    @property
    def sites(self) -> list[Site]:
        """The sites in the order of their numbers."""
        return sorted((binding.site for binding in self.bindings), key=lambda site: site.number)


def hooked_network(model: nn.Module, level: Level) -> HookedNetwork:
    """Return every method of a model to hook, down to a level. A part that should be there and is not is refused.

    Raises `Refused` as well for weights that are packed in an unknown way, and for attention that is not described.
    """
    refuse_adapters(model)
    if not hasattr(model, "config"):
        raise Refused(type(model).__name__, "a module without a configuration", "hook DeepSeek-OCR's whole model")
    network = build_analytic_layers_from_config(model.config)
    refuse_windows(model, network)
    inner = find(model, "model")
    text, sam = find(inner, "text"), find(inner, "sam")
    network = _as_laid_out(network, sam)
    everything = _bound(model, inner, network, Level.OP)
    owners = [(binding.site.path, binding.owner) for binding in everything]
    network = stored_network(network, [*owners, *_query_tables(inner)])
    experts = [binding for binding in everything if binding.site.kind is LayerKind.EXPERTS]
    return HookedNetwork(
        bindings=_bound(model, inner, network, level),
        experts=experts,
        network=network,
        config=getattr(text, "config", model.config),
        lists_experts=any(binding.method != "forward" for binding in experts),
        towers={"model": text, "sam": sam, "clip": find(inner, "clip")},
    )


def served_network(model: nn.Module, network: DeepseekOCRModel, level: Level) -> HookedNetwork:
    """Return every method to hook, down to a level, of a model as a serving engine lays it out: the towers at its root.

    Whoever serves says when a forward over tokens begins, so the model's own method is not among them.
    """
    refuse_windows(model, network)
    text, sam = find(model, "text"), find(model, "sam")
    network = _as_laid_out(network, sam)
    return HookedNetwork(
        bindings=_bound(model, model, network, level, SERVED),
        experts=[],
        network=network,
        config=None,
        lists_experts=False,
        towers={"model": text, "sam": sam, "clip": find(model, "clip")},
    )


def refuse_windows(model: nn.Module, network: DeepseekOCRModel) -> None:
    """Refuse attention whose cost depends on how long the prompt was, which a call does not say."""
    window = max((layer.attention.window for layer in network.layers), default=0)
    if window:
        found = f"decoder layers with sliding-window attention (the last {window} tokens, and the prompt)"
        raise Refused(type(model).__name__, found, "`dsocr-nvtx analytic` prices it; hook a model with full attention")


def _as_laid_out(network: DeepseekOCRModel, sam: nn.Module) -> DeepseekOCRModel:
    if not hasattr(sam, "net_2"):
        return network
    return evolve(network, vision=evolve(network.vision, sam=_with_halvings_apart(network.sam)))


def _with_halvings_apart(sam: ImageEncoderViT) -> ImageEncoderViT:
    """Return SAM as the vendor has it, whose two halving convolutions are modules of their own."""
    narrow, wide = sam.proj.steps
    first, second = evolve(sam.proj, steps=(narrow,)), evolve(sam.proj, channels=narrow, steps=(wide,))
    return evolve(sam, net_2=first, net_3=second)


def _query_tables(inner: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return deepseek_ocr2's tables of learned queries, which lie beside the encoder that they belong to."""
    tower = getattr(inner, "vision_tower", None)
    named = tower.named_children() if isinstance(tower, nn.Module) else ()
    return [("clip", child) for name, child in named if name.startswith("query_")]


def _bound(
    model: nn.Module, inner: nn.Module, network: DeepseekOCRModel, level: Level, attention: str = ""
) -> list[Binding]:
    binder = _Binder(level=level)
    binder.bind_vision(inner, network)
    binder.bind_text(model, find(inner, "text"), network, attention)
    number_sites(binder.roots)
    return binder.bindings


@frozen
class _Tower:
    """What the sites of one tower share."""

    dtype: str
    attention: str
    is_vision: bool


@frozen(kw_only=True)
class _Binder:
    """Collects the sites down to a level."""

    level: Level
    bindings: list[Binding] = field(factory=list)
    roots: list[Site] = field(factory=list)

    def bind_vision(self, inner: nn.Module, network: DeepseekOCRModel) -> None:
        """Bind the image features, where the layout has a method for them, and the towers and the projector."""
        sam = find(inner, "sam")
        tower = _tower(sam, is_vision=True)
        whole = None
        method = next((name for name in _IMAGE_FEATURES if hasattr(inner, name)), None)
        if method is not None:
            whole = self._entry(inner, "image_features", LayerKind.REST, Level.STAGE, None, tower, method=method)
        parts: tuple[tuple[str, nn.Module, Layer], ...] = (
            ("sam", sam, network.sam),
            ("clip", find(inner, "clip"), network.clip),
            ("projector", find(inner, "projector"), network.projector),
        )
        for name, module, description in parts:
            tower = _tower(module, is_vision=True) if name != "projector" else tower
            site = self._entry(module, name, description.kind, Level.LAYER, description, tower, parent=whole)
            if site is not None:
                self._inside(module, site, description, tower)

    def bind_text(self, model: nn.Module, text: nn.Module, network: DeepseekOCRModel, attention: str) -> None:
        """Bind the model and everything from the token embedding to the head."""
        tower = _tower(text, is_vision=False, attention=attention)
        site = self._entry(model, "model", LayerKind.REST, Level.STAGE, None, tower)
        assert site is not None  # noqa: S101 - every level has the stages
        self._inside(text, site, network, tower, head=model)

    def _entry(
        self, owner: nn.Module, path: str, kind: LayerKind, level: Level, description: Layer | None, tower: _Tower,
        *, parent: Site | None = None, method: str = "forward",
    ) -> Site | None:  # fmt: skip
        if _ORDER.index(level) > _ORDER.index(self.level):
            return None
        site = Site(
            path=path, name=path, kind=kind, level=level, layer=None, description=description, dtype=tower.dtype,
            attention=tower.attention, is_vision=tower.is_vision, is_entry=True, parent=parent,
        )  # fmt: skip
        self._keep(owner, method, site)
        return site

    def _inside(
        self, module: nn.Module, site: Site, description: Layer, tower: _Tower, head: nn.Module | None = None
    ) -> None:
        """Bind the calls inside a site, as its description names them; ``head`` is where the model keeps lm_head."""
        parts = description.children(CallShape())
        _refuse_other_count(module, [part for part in parts if _is_block(part)])
        for part in parts:
            owner, method = _located(head if head is not None and part.name == "lm_head" else module, part)
            level = Level.LAYER if _is_block(part) or part.name == "lm_head" else Level.OP
            if owner is None or _ORDER.index(level) > _ORDER.index(self.level):
                continue
            below = Site(
                path=part.name if site.level is Level.STAGE else f"{site.path}.{part.name}", name=part.name,
                kind=part.kind, level=level, layer=site.layer if part.layer is None else part.layer,
                description=part.description, dtype=tower.dtype, attention=tower.attention,
                is_vision=tower.is_vision, parent=site,
            )  # fmt: skip
            self._keep(owner, method, below)
            self._inside(owner, below, part.description, tower)

    def _keep(self, owner: nn.Module, method: str, site: Site) -> None:
        if site.parent is None:
            self.roots.append(site)
        else:
            site.parent.children[site.name] = site
        self.bindings.append(Binding(owner=owner, site=site, method=method))


def _is_block(part: Child) -> bool:
    return part.layer is not None and part.name.rpartition(".")[2].isdigit()


def _located(module: nn.Module, part: Child) -> tuple[Any, str]:
    """Return the module and the method that a part is called by; no module where the layout has none for it."""
    if _is_block(part):
        return find(module, "blocks")[part.layer], "forward"
    if part.name in OPTIONAL and not any(hasattr(module, name) for name in ATTRIBUTES[part.name]):
        return None, "forward"
    if part.name == "lm_head" and hasattr(module, "compute_logits"):
        return module, "compute_logits"  # a serving engine never calls the head's own module
    found = find(module, part.name)
    # The vendor keeps its experts in a list and runs them from a method of the mixture itself.
    return (module, "moe_infer") if isinstance(found, nn.ModuleList) else (found, "forward")


def _refuse_other_count(module: nn.Module, blocks: list[Child]) -> None:
    if blocks and len(find(module, "blocks")) != len(blocks):
        found = f"{len(find(module, 'blocks'))} layers, its config says {len(blocks)}"
        raise Refused(type(module).__name__, found, MISSING)


def find(module: nn.Module, part: str) -> Any:
    """Return what a module keeps under the first attribute that it has of those for a part; refuse if it has none."""
    names = ATTRIBUTES.get(part, (part,))
    for name in names:
        found: Any = module
        for step in name.split(".") if name else ():
            found = getattr(found, step, None)
        if found is not None:
            return found
    raise Refused(type(module).__name__, f"no attribute {' or '.join(names)}", MISSING)


def _tower(module: nn.Module, *, is_vision: bool, attention: str = "") -> _Tower:
    """Return what a tower's sites share; refuse weights of a type that has no size here."""
    attention = attention or getattr(getattr(module, "config", None), "_attn_implementation", None) or ""
    # The vendor's vision calls fused attention without saying so in a configuration; its decoder is eager.
    return _Tower(element_type(module), attention or ("sdpa" if is_vision else "eager"), is_vision)
