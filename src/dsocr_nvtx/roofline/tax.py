"""Tax: GPU operations that a fused kernel would do in passing, told by their class and the rule behind it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsocr_nvtx.join.columns import blocks, dictionary_column
from dsocr_nvtx.schema.values import values_of

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
    kind, rule = (dictionary_column(kernels, name) for name in ("class", "rule"))
    kinds, rules = (column.dictionary.to_pylist() for column in (kind, rule))
    table = np.array([[is_tax(one, other) for other in rules] for one in kinds] or [[False]], bool)
    found, kind, rule = np.empty(len(kernels), bool), values_of(kind), values_of(rule)
    for part in blocks(len(found)):
        found[part] = table[kind[part], rule[part]]
    return found


def taxed_names(names: pa.DictionaryArray, classes: Sequence[tuple[str, str]]) -> npt.NDArray[np.bool_]:
    """Return which operations are tax, by their names and the class and rule of each word."""
    table = np.array([is_tax(kind, rule) for kind, rule in classes] or [False], bool)
    return table.take(values_of(names), mode="clip")
