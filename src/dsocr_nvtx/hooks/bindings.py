"""Where a model is tapped: its modules found by structure, each with its layer description and its reader.

The tree of layer descriptions is walked beside the tree of modules; a table says under which attribute each layout
keeps a part. No class name is asked for, so the native network, the vendor's and their likes bind alike.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from attrs import evolve
from torch import nn

from dsocr_nvtx.analytic.build import build_analytic_layers_from_config
from dsocr_nvtx.analytic.decoder import DeepseekV2DecoderLayer
from dsocr_nvtx.analytic.experts import DeepseekV2MoE, RoutedExperts
from dsocr_nvtx.analytic.forward import TextForward, VisionViews
from dsocr_nvtx.analytic.layer import Layer
from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.analytic.sam import SamProj
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.hooks import shapes
from dsocr_nvtx.hooks.parts import MISSING, Binding, Prices, Tower, find, tower
from dsocr_nvtx.hooks.places import Key, Place, Priced, Rest
from dsocr_nvtx.schema.records import SAMPLING, CallShape, LayerKind, Level

_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "norm1": ("layer_norm1", "norm1"),
    "norm2": ("layer_norm2", "norm2"),
    "attention": ("self_attn", "attn"),
    "pre_norm": ("pre_layrnorm",),
    "input_norm": ("input_layernorm",),
    "post_norm": ("post_attention_layernorm",),
    "moe": ("mlp",),
    "rotary": ("rotary_emb",),
}
"""Attributes under which layouts keep a part whose name differs from ours; the first that exists is taken."""

_BLOCKS = ("layers", "blocks", "encoder.layers", "transformer.layers")
_BEFORE_REST = ("norm1", "attention", "mlp", "shared_experts")
"""Calls after which their container works on: it cuts windows after a norm, and adds residuals or shared experts."""


def bindings(model: nn.Module, level: Level) -> list[Binding]:
    """Return every place of a model to tap, down to a level. A part that should be there and is not is refused."""
    if not hasattr(model, "config"):
        raise Refused(type(model).__name__, "a module without a configuration", "hook DeepSeek-OCR's whole model")
    network = build_analytic_layers_from_config(model.config)
    inner = find(model, "model")
    text = getattr(inner, "language_model", inner)
    caches, prices = shapes.Caches(), Prices()
    everything = [
        *_stages(model, inner, text, network, caches, prices),
        *_vision(inner, network, prices),
        *_text(model, text, network, caches, prices),
    ]
    order = list(Level)
    return [binding for binding in everything if order.index(binding.place.level) <= order.index(level)]


def _stages(
    model: nn.Module, inner: nn.Module, text: nn.Module, network: DeepseekOCRModel, caches: shapes.Caches,
    prices: Prices,
) -> Iterator[Binding]:  # fmt: skip
    part = tower(text, prices, is_vision=False)
    config = getattr(text, "config", model.config)
    reader = shapes.ModelReader(caches, config, bool(getattr(config, "use_cache", True)))

    @cache
    def forward(logits: int) -> TextForward:
        return TextForward(model=network, logits=logits)

    def price(key: Key) -> Priced:
        return prices(forward(key[5]), shapes.cached_shape(key, part.dtype, part.attention))

    yield Binding(
        owner=model,
        place=Place(
            path="model", kind=LayerKind.REST, level=Level.STAGE, layer=None, read=reader, price=price, is_model=True,
            grows=True, dtype=part.dtype, rest=Rest(path=SAMPLING, container=None),
        ),
    )  # fmt: skip
    if hasattr(inner, "get_image_features"):
        yield _image_features(inner, network, prices)


def _image_features(inner: nn.Module, network: DeepseekOCRModel, prices: Prices) -> Binding:
    sam = tower(find(inner, "vision_tower.sam_encoder"), prices, is_vision=True)

    def price(key: Key) -> Priced:
        calls = tuple(
            CallShape(batch=batch, height=height, width=width, dtype=sam.dtype, attention=sam.attention)
            for batch, height, width in key
        )
        views = VisionViews(tower=network.vision, views=calls)
        return prices(views, CallShape(tokens=views.tokens(), dtype=sam.dtype))

    place = Place(
        path="image_features", kind=LayerKind.REST, level=Level.STAGE, layer=None, read=shapes.images, price=price,
        is_vision=True, dtype=sam.dtype,
    )  # fmt: skip
    return Binding(owner=inner, method="get_image_features", place=place)


def _vision(inner: nn.Module, network: DeepseekOCRModel, prices: Prices) -> Iterator[Binding]:
    sam = find(inner, "vision_tower.sam_encoder", "sam_model")
    clip = find(inner, "vision_tower.vision_encoder", "vision_model")
    projector = find(inner, "multi_modal_projector", "projector")
    part = tower(sam, prices, is_vision=True)
    yield Binding(owner=sam, place=part.place("sam", network.sam, Level.LAYER, None, shapes.channels_first))
    yield from _sam_ends(sam, network, part)
    yield from _blocks(sam, "sam", network.sam.blocks, part)
    part = tower(clip, prices, is_vision=True)
    yield Binding(owner=clip, place=part.place("clip", network.clip, Level.LAYER, None, shapes.clip_input))
    yield from _clip_ends(clip, network, part)
    yield from _blocks(clip, "clip", network.clip.blocks, part)
    place = part.place("projector", network.projector, Level.LAYER, None, shapes.rows)
    yield Binding(owner=projector, place=place)


def _sam_ends(sam: nn.Module, network: DeepseekOCRModel, part: Tower) -> Iterator[Binding]:
    layers = network.sam
    read = shapes.neck(layers.neck.width)
    patch = part.place("sam.patch_embed", layers.patch_embed, Level.OP, None, shapes.channels_first, rest="sam")
    yield Binding(owner=find(sam, "patch_embed"), place=patch)
    yield Binding(owner=find(sam, "neck"), place=part.place("sam.neck", layers.neck, Level.OP, None, read))
    if hasattr(sam, "net_2"):  # the vendor keeps the two halvings apart
        narrow, wide = layers.proj.steps
        halvings: list[tuple[str, SamProj]] = [
            ("net_2", evolve(layers.proj, steps=(narrow,))),
            ("net_3", evolve(layers.proj, channels=narrow, steps=(wide,))),
        ]
    else:
        halvings = [("proj", layers.proj)]
    for name, description in halvings:
        place = part.place(f"sam.{name}", description, Level.OP, None, shapes.channels_first)
        yield Binding(owner=find(sam, name), place=place)


def _clip_ends(clip: nn.Module, network: DeepseekOCRModel, part: Tower) -> Iterator[Binding]:
    for child in network.clip.children(CallShape()):
        if child.layer is None and not (child.name == "rotary" and not hasattr(clip, "rotary_emb")):
            is_input = child.name == "embeddings"
            read = shapes.clip_input if is_input else shapes.rows
            place = part.place(f"clip.{child.name}", child.description, Level.OP, None, read)
            yield Binding(owner=find(clip, *_ATTRIBUTES.get(child.name, (child.name,))), place=place)


def _blocks(tower: nn.Module, path: str, described: tuple[Layer, ...], part: Tower) -> Iterator[Binding]:
    modules = find(tower, *_BLOCKS)
    if len(modules) != len(described):
        raise Refused(type(tower).__name__, f"{len(modules)} blocks, its config says {len(described)}", MISSING)
    for index, (module, description) in enumerate(zip(modules, described, strict=True)):
        above = f"{path}.{index}"
        yield Binding(owner=module, place=part.place(above, description, Level.LAYER, index, shapes.rows))
        for child in description.children(CallShape()):
            rest = above if child.name in _BEFORE_REST else None
            place = part.place(f"{above}.{child.name}", child.description, Level.OP, index, shapes.rows, rest=rest)
            yield Binding(owner=find(module, *_ATTRIBUTES.get(child.name, (child.name,))), place=place)


def _text(
    model: nn.Module, text: nn.Module, network: DeepseekOCRModel, caches: shapes.Caches, prices: Prices
) -> Iterator[Binding]:
    part = tower(text, prices, is_vision=False)
    place = part.place("embed", network.embed, Level.OP, None, shapes.ids, rest="model")
    yield Binding(owner=find(text, "embed_tokens"), place=place)
    if hasattr(text, "rotary_emb"):  # the vendor computes it inside every attention
        place = part.place("decoder.rotary", network.rotary, Level.OP, None, shapes.positions)
        yield Binding(owner=find(text, "rotary_emb"), place=place)
    yield Binding(owner=find(text, "norm"), place=part.place("decoder.norm", network.norm, Level.OP, None, shapes.rows))
    head = part.place("lm_head", network.lm_head, Level.LAYER, None, shapes.rows)
    yield Binding(owner=find(model, "lm_head"), place=head)
    config = getattr(text, "config", model.config)
    modules = find(text, "layers")
    if len(modules) != len(network.layers):
        found = f"{len(modules)} decoder layers, its config says {len(network.layers)}"
        raise Refused(type(text).__name__, found, MISSING)
    for index, (module, description) in enumerate(zip(modules, network.layers, strict=True)):
        reader = shapes.LayerReader(caches, config, index)
        yield from _decoder_layer(module, description, index, part, reader)


def _decoder_layer(
    module: nn.Module, description: DeepseekV2DecoderLayer, index: int, part: Tower, reader: shapes.LayerReader
) -> Iterator[Binding]:
    path = f"decoder.{index}"
    place = part.place(path, description, Level.LAYER, index, reader, shapes.cached_shape)
    yield Binding(owner=module, place=place)
    for child in description.children(CallShape()):
        owner = find(module, *_ATTRIBUTES.get(child.name, (child.name,)))
        below = f"{path}.{child.name}"
        if child.name == "attention":
            place = part.place(below, child.description, Level.OP, index, reader, shapes.cached_shape, rest=path)
        elif isinstance(child.description, DeepseekV2MoE):
            yield from _moe(owner, child.description, below, index, part, reader.config)
            continue
        else:
            rest = path if child.name in _BEFORE_REST else None
            place = part.place(below, child.description, Level.OP, index, shapes.rows, rest=rest)
        yield Binding(owner=owner, place=place)


def _moe(
    module: nn.Module, description: DeepseekV2MoE, path: str, index: int, part: Tower, config: Any
) -> Iterator[Binding]:
    read = shapes.ExpertsReader(config)
    layer = path.rsplit(".", 1)[0]
    place = part.place(path, description, Level.OP, index, read, shapes.experts_shape, rest=layer)
    yield Binding(owner=module, place=place)
    for child in description.children(CallShape()):
        below = f"{path}.{child.name}"
        if isinstance(child.description, RoutedExperts):
            place = part.place(below, child.description, Level.OP, index, read, shapes.experts_shape)
            # The vendor keeps its experts in a list and runs them from a method of the mixture itself.
            of_list = isinstance(find(module, child.name), nn.ModuleList)
            owner, method = (module, "moe_infer") if of_list else (find(module, child.name), "forward")
            yield Binding(owner=owner, method=method, place=place)
        else:
            rest = path if child.name in _BEFORE_REST else None
            place = part.place(below, child.description, Level.OP, index, shapes.rows, rest=rest)
            yield Binding(owner=find(module, child.name), place=place)
