"""What a model's weights weigh as they lie: by each parameter's own type, packed or quantised ones with their scales.

For the hooks: ``stored_network(network, owners)`` returns the descriptions with the bytes of every part's own weights,
where ``owners`` are all parts of the model at level ``op`` and above, as (short path, module), whatever level is
hooked: the costs of a layer hold those of what is inside. The vendor's experts are given as their list or as the
mixture around it. ``element_type(module)`` is the type that a tower computes in, packed or not. Both refuse by name
what they do not know: a wrong number is worse than none. ``refuse_adapters(model)`` comes before a model is searched
for its parts: adapters wrap the model as well.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from typing import Any, Final

import torch
from attrs import frozen
from torch import nn

from dsocr_nvtx.analytic.experts import RoutedExperts
from dsocr_nvtx.analytic.layer import Layer
from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.analytic.stored import named_parts, with_stored_bytes
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.records import DTYPE_BYTES, CallShape

_PLAIN: Final = (torch.float32, torch.bfloat16, torch.float16)
_BYTE_FLOATS: Final = (torch.float8_e4m3fn, torch.float8_e5m2)

_SCALES: Final = ("_scale", "_scale_inv", "_scales", "_zeros")
"""Ends of the names of what quantised weights need besides themselves."""
_PACKED: Final = ("qweight", "qzeros", "scales", "g_idx")
"""Buffers of GPTQ's and AWQ's linear layers; the first holds the weights."""
_UNUSED: Final = "patch_embedding"
"""CLIP's own patch convolution: in the vendor's module, and used by nobody."""


@frozen
class Lying:
    """Weights as they lie: how many bytes, and how many weights they stand for."""

    size: int = 0
    count: int = 0

    def __add__(self, other: "Lying") -> "Lying":
        """Return both together."""
        return Lying(self.size + other.size, self.count + other.count)


def stored_network(network: DeepseekOCRModel, owners: Iterable[tuple[str, nn.Module]]) -> DeepseekOCRModel:
    """Return the network with every part's weights as its module holds them.

    `Refused` names a part whose weights are packed in an unknown way, or are not as many as its configuration says.
    Paths that the network does not know, such as those of stages, are passed over.
    """
    described = dict(named_parts(network))
    found: dict[str, Lying] = {}
    for path, module in owners:
        if path in described:
            found[path] = found.get(path, Lying()) + lying_weights(module, described[path], path)
    for path, lying in found.items():
        if lying.count != described[path].own_parameters():
            said = f"{lying.count:,} weights, but its configuration says {described[path].own_parameters():,}"
            raise Refused(path, said, "pass the model with the configuration that it was built from")
    return with_stored_bytes(network, {path: lying.size for path, lying in found.items()})


def lying_weights(module: nn.Module, description: Layer, path: str) -> Lying:
    """Return a part's own weights: all that a leaf's module holds, of a container only what its parts do not."""
    if isinstance(description, RoutedExperts) and isinstance(getattr(module, "experts", None), nn.ModuleList):
        module = module.experts  # type: ignore[assignment] # the vendor's mixture runs its list of experts itself
    inside = not description.children(CallShape())
    parts = module.named_modules() if inside else [("", module)]
    found = Lying()
    for name, part in parts:
        if name.split(".")[0] != _UNUSED:
            for lying in _tensors(part, f"{path}.{name}" if name else path):
                found += lying
    return found


def element_type(module: nn.Module) -> str:
    """Return the type that most of a tower's unpacked weights have: the one its activations have."""
    types: Counter[torch.dtype] = Counter()
    for parameter in module.parameters():
        types[parameter.dtype] += parameter.numel() if parameter.dtype in _PLAIN else 0
    name = str(types.most_common(1)[0][0] if types else None).removeprefix("torch.")
    if name not in DTYPE_BYTES or not any(types.values()):
        raise Refused(type(module).__name__, f"its weights are {name}", f"load it as one of {', '.join(DTYPE_BYTES)}")
    return name


def refuse_adapters(model: nn.Module) -> None:
    """Refuse a model with adapters, such as PEFT puts around linear layers: nothing here knows what they compute."""
    for name, part in model.named_modules():
        if hasattr(part, "base_layer"):
            what = f"an adapter ({type(part).__name__} at {name})"
            raise Refused(type(model).__name__, what, "hook what its merge_and_unload() returns")


def _tensors(part: nn.Module, path: str) -> Iterator[Lying]:
    """Yield what one module holds itself."""
    if hasattr(part, "base_layer"):
        raise Refused(path, f"an adapter ({type(part).__name__})", "hook what the model's merge_and_unload() returns")
    for name, parameter in part.named_parameters(recurse=False):
        yield _lying(part, name, parameter, f"{path}.{name}")
    for name, buffer in part.named_buffers(recurse=False):
        if name in _PACKED or name.endswith(_SCALES):
            yield _lying(part, name, buffer, f"{path}.{name}")


def _lying(part: nn.Module, name: str, tensor: torch.Tensor, path: str) -> Lying:
    size = tensor.numel() * tensor.element_size()
    if name in _PACKED or name.endswith(_SCALES):
        return Lying(size, _packed_count(part, path) if name == _PACKED[0] else 0)
    state = getattr(tensor, "quant_state", None)
    if state is not None:  # bitsandbytes, four bits: one scale per block, which may be quantised in turn
        return Lying(size + _state_bytes(state), prod(state.shape))
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        inner = [getattr(tensor, inside) for inside in names]
        return Lying(sum(one.numel() * one.element_size() for one in inner), tensor.numel())
    if tensor.dtype is torch.int8:  # bitsandbytes, eight bits: one scale per row
        scales = getattr(tensor, "SCB", None)
        scales = getattr(getattr(part, "state", None), "SCB", None) if scales is None else scales
        if scales is not None:
            return Lying(size + scales.numel() * scales.element_size(), tensor.numel())
    if tensor.dtype in (*_PLAIN, *_BYTE_FLOATS):
        return Lying(size, tensor.numel())
    found = f"weights packed as {tensor.dtype} in a {type(part).__name__}"
    raise Refused(path, found, "load the model in bfloat16, float16, float32, fp8, bitsandbytes, GPTQ or AWQ")


def _state_bytes(state: Any) -> int:
    """Return the bytes of a bitsandbytes quantisation state: scales, the table of values, and the scales' own."""
    tensors = [getattr(state, name, None) for name in ("absmax", "code", "offset")]
    own = sum(one.numel() * one.element_size() for one in tensors if isinstance(one, torch.Tensor))
    nested = getattr(state, "state2", None)
    return own + (_state_bytes(nested) if nested is not None else 0)


def _packed_count(part: nn.Module, path: str) -> int:
    """Return the weights that a GPTQ or AWQ layer packs; its libraries call the sizes by two names each."""
    sizes = [
        getattr(part, name, getattr(part, name.replace("_", ""), None)) for name in ("in_features", "out_features")
    ]
    if not all(isinstance(size, int) for size in sizes):
        raise Refused(path, f"packed weights of unknown size in a {type(part).__name__}", "load it unpacked")
    return prod(sizes)  # type: ignore[arg-type] # both are numbers, as was just seen
