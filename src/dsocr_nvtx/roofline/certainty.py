"""What of a row may be said: nothing that rests on costs where those are not certain, no verdict without roofs.

Nor is anything that rests on costs said of host work, which has none.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.join.columns import Ints, rows_with
from dsocr_nvtx.roofline.own import of_origin
from dsocr_nvtx.schema.records import CostState, Stage


def doubtful(ranges: pa.Table, group: Ints, count: int) -> dict[str, Ints]:
    """Return how many ranges that ran have a cost that is not known, or is contradicted; older tables tell of none."""
    ran, found = ~of_origin(ranges, "captured"), {}
    for state in (CostState.UNKNOWN, CostState.CONTRADICTED):
        here = ran & rows_with(ranges, "cost_state", state) if "cost_state" in ranges.column_names else ran & False
        found[f"{state}_calls"] = np.bincount(group[here], minlength=count).astype(np.int64)
    return found


def modelled(labels: Mapping[str, object]) -> npt.NDArray[np.bool_]:
    """Return which rows are of the model: of stage and kind, where they have one, neither is that of host work."""
    words = [np.asarray(labels[name]) for name in ("stage", "kind") if name in labels]
    return np.asarray(np.logical_and.reduce([each != Stage.HOST for each in words]), bool)


_ON_COSTS = ("achieved_tflops", "achieved_gbps", "intensity", "efficiency", "bound", "above_roof", "mfu", "mbu")
"""Columns that rest on costs and may be null."""


def judged(columns: Mapping[str, object], certain: npt.NDArray[np.bool_]) -> dict[str, object]:
    """Return columns, null what rests on costs in rows where those are not certain."""
    if certain.all():
        return dict(columns)
    return {name: _null(c, ~certain) if name in _ON_COSTS else c for name, c in columns.items()}


def _null(values: object, where: npt.NDArray[np.bool_]) -> pa.Array:
    column = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pc.if_else(pa.array(where), pa.scalar(None, column.type), column)  # type: ignore[union-attr]


_NEEDS_ROOFS = ("efficiency", "bound", "above_roof", "mfu", "mbu")


def unjudged(columns: Mapping[str, object]) -> dict[str, object]:
    """Return columns of ROOFLINE or STAGES with null in those that say nothing without roofs."""
    return {name: _nothing(values) if name in _NEEDS_ROOFS else values for name, values in columns.items()}


def _nothing(column: object) -> pa.Array:
    return pa.nulls(len(column), column.type) if isinstance(column, pa.Array | pa.ChunkedArray) else column
