"""Tax: GPU operations that a fused kernel would do in passing, told by their class and the rule behind it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsocr_nvtx.join.classes import is_fusible
from dsocr_nvtx.join.columns import blocks, dictionary_column
from dsocr_nvtx.schema.values import values_of

TAX_RULE = (
    "tax kernels: class data_movement but for copies to and from the host, and of norm_activation what is pointwise "
    "(no norm, softmax or other reduction)"
)


def taxed(kernels: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which operations of a KERNELS table are tax."""
    kind, rule = (dictionary_column(kernels, name) for name in ("class", "rule"))
    kinds, rules = (column.dictionary.to_pylist() for column in (kind, rule))
    table = np.array([[is_fusible(one, other) for other in rules] for one in kinds] or [[False]], bool)
    found, kind, rule = np.empty(len(kernels), bool), values_of(kind), values_of(rule)
    for part in blocks(len(found)):
        found[part] = table[kind[part], rule[part]]
    return found


def taxed_names(names: pa.DictionaryArray, classes: Sequence[tuple[str, str]]) -> npt.NDArray[np.bool_]:
    """Return which operations are tax, by their names and the class and rule of each word."""
    table = np.array([is_fusible(kind, rule) for kind, rule in classes] or [False], bool)
    return table.take(values_of(names), mode="clip")
