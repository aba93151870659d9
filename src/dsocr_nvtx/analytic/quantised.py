"""What a configuration says of quantised weights, put into the layer descriptions."""

from collections import defaultdict

from dsocr_nvtx.analytic.dims import Section
from dsocr_nvtx.analytic.matrices import is_named, matrices, module_name
from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.analytic.packed import awq, gptq, mlx
from dsocr_nvtx.analytic.schemes import Scheme, bitsandbytes, fp8
from dsocr_nvtx.analytic.stored import named_parts, with_stored_bytes
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.records import DTYPE_BYTES

_FIELDS = ("quantization_config", "quantization")


def quantised(root: Section, text: Section, network: DeepseekOCRModel) -> DeepseekOCRModel:
    """Return the network with its weights as the configuration stores them; unchanged where it says nothing of it."""
    section = _section(root, text)
    if section is None:
        return network
    plain, layout = _plain_bytes(root, text), _layout(root)
    scheme = _scheme(section, plain)
    packed: defaultdict[str, int] = defaultdict(int)
    unpacked: defaultdict[str, int] = defaultdict(int)
    for matrix in matrices(network, layout):
        if scheme.stores(matrix):
            packed[matrix.part] += scheme.size(matrix)
            unpacked[matrix.part] += matrix.weights
    rest = {path: part.own_parameters() - unpacked[path] for path, part in named_parts(network) if path in packed}
    return with_stored_bytes(network, {path: packed[path] + rest[path] * plain for path in rest})


def quantisation(root: Section, text: Section, network: DeepseekOCRModel) -> str | None:
    """Return in words how the configuration stores weights; None where it says nothing of it."""
    section = _section(root, text)
    if section is None:
        return None
    scheme = _scheme(section, _plain_bytes(root, text))
    unmatched = _unmatched(scheme, network, _layout(root))
    return scheme.said + (f"; its lists name no part of this network by {', '.join(unmatched)}" if unmatched else "")


def _scheme(section: Section, plain_bytes: int) -> Scheme:
    """Return the scheme that a configuration's ``quantization_config`` or ``quantization`` names.

    ``plain_bytes`` is the size of an unpacked weight. Raises `Refused`, by name, for a scheme that is not known.
    """
    method = section.given("quant_method").get("quant_method")
    method = getattr(method, "value", method)
    if method is None and section.has("bits") and section.has("group_size"):
        return mlx(section, plain_bytes)
    readers = {"bitsandbytes": bitsandbytes, "fp8": fp8, "awq": awq, "gptq": gptq}
    if method not in readers:
        known = ", ".join([*readers, "MLX"])
        remedy = "give the configuration of the model before it was quantised"
        raise Refused(f"{section.path}.quant_method", f"is {method!r}: only {known} are known", remedy)
    return readers[method](section)


def _section(root: Section, text: Section) -> Section | None:
    for section in (root, text):
        for name in _FIELDS:
            if section.has(name):
                return section.section(name)
    return None


def _plain_bytes(root: Section, text: Section) -> int:
    """Return the size of the weights that stay as they are, by the type that the configuration names."""
    for section in (root, text):
        for name in ("dtype", "torch_dtype"):
            if section.has(name):
                named = str(section.given(name)[name]).removeprefix("torch.")
                if named not in DTYPE_BYTES:
                    raise section.refuse(name, f"is {named!r}, not one of {', '.join(DTYPE_BYTES)}")
                return DTYPE_BYTES[named]
    return DTYPE_BYTES["bfloat16"]


def _unmatched(scheme: Scheme, network: DeepseekOCRModel, layout: str) -> tuple[str, ...]:
    """Return the names in a scheme's lists that no part of this network has; libraries pass over them."""
    names = {module_name(network, layout, path) for path, _ in named_parts(network)}
    names |= {matrix.name for matrix in matrices(network, layout)}
    anywhere = scheme.anywhere or layout == "vendor"
    return tuple(
        pattern for pattern in scheme.listed if not any(is_named(name, (pattern,), anywhere) for name in names)
    )


def _layout(root: Section) -> str:
    return "native" if root.has("text_config") else "vendor"
