"""Tax: GPU operations that a fused kernel would do in passing, told by their class and the rule behind it."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsocr_nvtx.join.columns import coded

_REDUCTIONS = frozenset({"norm", "Norm", "softmax", "SoftMax", "reduce", "upsample", "interpolate"})

TAX_RULE = (
    "tax kernels: class data_movement, and of norm_activation what is pointwise "
    "(its rule is none of " + ", ".join(sorted(_REDUCTIONS)) + ")"
)


def is_tax(kind: str, rule: str) -> bool:
    """Say whether a kernel of this class, by this rule, is tax: work that a fused kernel would do in passing."""
    return kind == "data_movement" or (kind == "norm_activation" and rule not in _REDUCTIONS)


def taxed(kernels: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which operations of a KERNELS table are tax."""
    kind, kinds = coded(kernels, "class")
    rule, rules = coded(kernels, "rule")
    table = np.array([[is_tax(one, other) for other in rules] for one in kinds] or [[False]], bool)
    return np.asarray(table[kind, rule], bool)
