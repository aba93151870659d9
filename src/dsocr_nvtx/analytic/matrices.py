"""The weight matrices of a network under the names of their modules, which lists of quantised modules go by.

Two layouts: the library's own classes ("native"), in which a layer's experts are one module, and the vendor's remote
code ("vendor"), in which they are a list of modules.
"""

import re
from collections.abc import Iterator, Sequence

from attrs import frozen

from dsocr_nvtx.analytic.attention import LlamaFlashAttention2
from dsocr_nvtx.analytic.clip import ClipAttention
from dsocr_nvtx.analytic.decoder import Qwen2VisionEncoder, TokenEmbedding
from dsocr_nvtx.analytic.experts import RoutedExperts
from dsocr_nvtx.analytic.layer import Layer
from dsocr_nvtx.analytic.mlp import DeepseekV2MLP, Linear, VisionMLP
from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.analytic.sam_attention import SamAttention
from dsocr_nvtx.analytic.stored import named_parts

_MODULES = {
    "native": {
        "sam": "model.vision_tower.sam_encoder.layers",
        "clip": "model.vision_tower.vision_encoder.encoder.layers",
        "projector": "model.multi_modal_projector",
        "decoder": "model.language_model.layers",
        "embed": "model.language_model.embed_tokens",
    },
    "vendor": {
        "sam": "model.sam_model.blocks",
        "clip": "model.vision_model.transformer.layers",
        "projector": "model.projector.layers",
        "decoder": "model.layers",
        "embed": "model.embed_tokens",
    },
}


@frozen(kw_only=True)
class Matrix:
    """A matrix ``[columns, inner]`` of a part (its short path) and the name of the module that holds it.

    ``kind`` is ``linear``, ``experts`` (``count`` of them in one module) or ``embedding``; ``joined``: of how many
    it is put together, which may keep a scale each.
    """

    part: str
    name: str
    inner: int
    columns: int
    kind: str = "linear"
    count: int = 1
    joined: int = 1
    layout: str = "native"

    @property
    def weights(self) -> int:
        """The number of weights."""
        return self.count * self.inner * self.columns

    @property
    def tower(self) -> str:
        """The part of the network: sam, clip, projector, embed, decoder or lm_head."""
        return self.part.split(".")[0]

    def is_named(self, patterns: Sequence[str]) -> bool:
        """Say whether a list of modules names the one that holds the matrix, as the layout's library reads lists."""
        return is_named(self.name, patterns, anywhere=self.layout == "vendor")


def is_named(name: str, patterns: Sequence[str], anywhere: bool) -> bool:
    """Say whether a list of modules names a module: itself, what it lies in, or the end of its name; all as regexes.

    ``anywhere``: what it lies in may be named by any run of the parts of its name, as vLLM and transformers 4 have it;
    transformers 5 wants the name from its beginning.
    """
    starts = [0, *(dot.end() for dot in re.finditer(r"\.", name) if anywhere)]
    return any(
        name.endswith(pattern) or any(re.match(rf"(?:{pattern})(?:(?<=\.)|(?=\.|$))", name[at:]) for at in starts)
        for pattern in patterns
    )


def matrices(network: DeepseekOCRModel, layout: str) -> Iterator[Matrix]:
    """Yield every weight matrix of the network. Convolutions, routers, norms and tables of positions are none."""
    for path, part in named_parts(network):
        module = module_name(network, layout, path)
        for inside, inner, columns in _linear(part, layout, path):
            yield Matrix(part=path, name=f"{module}{inside}", inner=inner, columns=columns, layout=layout)
        if isinstance(part, RoutedExperts):
            yield from _experts(part, layout, path, module)
        elif isinstance(part, TokenEmbedding):
            yield Matrix(part=path, name=module, inner=part.width, columns=part.vocabulary, kind="embedding")


def module_name(network: DeepseekOCRModel, layout: str, path: str) -> str:
    """Return the name that the layout gives the module of a part; for parts without one, a name that has none."""
    tower, _, rest = path.partition(".")
    module = _MODULES[layout].get(tower, tower)
    if tower == "clip" and isinstance(network.clip, Qwen2VisionEncoder):
        module = module.replace("encoder.layers", "layers")
    rest = rest.replace("attention", "attn" if tower == "sam" else "self_attn").replace("moe", "mlp")
    return f"{module}.{rest}" if rest else module


def _linear(part: Layer, layout: str, path: str) -> list[tuple[str, int, int]]:
    """Return the linear layers of a part: the end of the name, inputs and outputs."""
    if isinstance(part, Linear):
        return [("", part.width, part.columns)]
    if isinstance(part, LlamaFlashAttention2 | ClipAttention | SamAttention):
        return _attention(part, layout)
    if isinstance(part, DeepseekV2MLP):
        return _gated("", part.width, part.inner)
    if isinstance(part, VisionMLP):
        first, second = (".lin1", ".lin2") if path.startswith("sam") else (".fc1", ".fc2")
        return [(first, part.width, part.inner), (second, part.inner, part.width)]
    return []


def _attention(part: LlamaFlashAttention2 | ClipAttention | SamAttention, layout: str) -> list[tuple[str, int, int]]:
    width = part.width
    if isinstance(part, SamAttention):
        return [(".qkv", width, 3 * width), (".proj", width, width)]
    if isinstance(part, ClipAttention):
        apart = [(f".{name}_proj", width, width) for name in "qkv"]
        return [*([(".qkv_proj", width, 3 * width)] if layout == "vendor" else apart), (".out_proj", width, width)]
    out, kv = part.heads * part.head_dim, part.kv_heads * part.head_dim
    return [(".q_proj", width, out), (".k_proj", width, kv), (".v_proj", width, kv), (".o_proj", out, width)]


def _gated(above: str, width: int, inner: int) -> list[tuple[str, int, int]]:
    outer = [(f"{above}.{name}_proj", width, inner) for name in ("gate", "up")]
    return [*outer, (f"{above}.down_proj", inner, width)]


def _experts(part: RoutedExperts, layout: str, path: str, module: str) -> Iterator[Matrix]:
    """Yield the experts' matrices: two for all experts in the library's module, three of each in the vendor's list."""
    if layout == "native":
        for inner, columns, joined in ((part.width, 2 * part.inner, 2), (part.inner, part.width, 1)):
            yield Matrix(
                part=path, name=module, inner=inner, columns=columns, kind="experts", count=part.experts, joined=joined
            )  # fmt: skip
        return
    for index in range(part.experts):
        for inside, inner, columns in _gated(f".{index}", part.width, part.inner):
            yield Matrix(part=path, name=f"{module}{inside}", inner=inner, columns=columns, layout=layout)
