"""What a Triton kernel that torch.compile's inductor generated does, by its name: ``triton_KIND_fused_OPERATORS_N``.

The kind says how the kernel runs (pointwise, reduction, template), the operators whose work it took part in follow in
alphabetical order. So a pointwise kernel multiplies no matrices though it names ``mm`` (it prepares an operand, or adds
a bias), and a reduction is a norm or a softmax whatever copies it does in passing.
"""

import re
from enum import Enum, auto


class Fused(Enum):
    """The work of a generated kernel."""

    PRODUCT = auto()
    ATTENTION = auto()
    CONVOLUTION = auto()
    REDUCTION = auto()
    POINTWISE = auto()
    MOVEMENT = auto()


_NAME = re.compile(r"triton_(poi|for|red|per|mix|spl|split_scan|tem)_(?:fused_)?(.*)")
_POINTWISE = ("poi", "for")
POINTWISE_RULES = tuple(f"triton_{kind}" for kind in _POINTWISE)
"""What tells a kernel without any reduction: all that it does, a neighbour could do in passing."""

_PRODUCTS = re.compile(r"(?:^|_)(?:mm|bmm|addmm|baddbmm|mv|addmv|dot|linear|scaled_mm|int_mm|grouped_mm|matmul)(?:_|$)")
_REDUCTIONS = re.compile(
    r"norm|softmax|(?:^|_)(?:mean|sum|nansum|var|std|a?max|a?min|argmax|argmin|aminmax|any|all|prod|logsumexp|"
    r"cumsum|cumprod|sort|topk|median|loss|pool\w*|dist|count_nonzero)(?:_|$)"
)
_MOVES = (
    "_to_copy|to_copy|_unsafe_view|_unsafe_index_put|_unsafe_index|_reshape_alias|clone|copy|cat|stack|slice_scatter|"
    "slice|select_scatter|select|index_select|index_put|index_copy|index|gather|scatter|embedding|unsqueeze|squeeze|"
    "split_with_sizes|split|repeat_interleave|repeat|arange|iota|full_like|full|zeros_like|zeros|ones_like|ones|"
    "masked_fill|fill|constant_pad_nd|pad|flip|roll|where|scalar_tensor|lift_fresh|lift|detach|alias|empty_like|empty|"
    "new_zeros|new_ones|new_full|new_empty|contiguous|reshape|unfold|as_strided|unbind|view_as_real|view|expand|"
    "permute|transpose|convert_element_type|t"
)
_ONLY_MOVES = re.compile(rf"(?:_?(?:{_MOVES})(?=_|$))+(?:_\d+)?")


def fused_work(name: str) -> tuple[Fused, str] | None:
    """Return the work of a kernel that inductor made, and the text in its name that tells it; None of any other."""
    found = _NAME.match(name)
    if found is None:
        return None
    kind, operators = found.groups()
    return _work(kind, operators), f"triton_{kind}"


def _work(kind: str, operators: str) -> Fused:
    if kind in _POINTWISE:
        return Fused.MOVEMENT if _ONLY_MOVES.fullmatch(operators) else Fused.POINTWISE
    if kind == "tem":
        return Fused.ATTENTION if "attention" in operators else _template(operators)
    # A product that was decomposed is its own reduction; beside any other reduction it is a neighbour's.
    if _PRODUCTS.search(operators) and not _REDUCTIONS.search(operators):
        return Fused.PRODUCT
    return Fused.REDUCTION


def _template(operators: str) -> Fused:
    return Fused.CONVOLUTION if "conv" in operators and not _PRODUCTS.search(operators) else Fused.PRODUCT
