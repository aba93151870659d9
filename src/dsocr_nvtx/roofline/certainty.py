"""What of a row may be said: no rate where costs are uncertain, no verdict that those could turn, none without roofs.

Nor is anything that rests on costs said of host work, which has none.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.columns import Ints, numbers, rows_with
from dsocr_nvtx.roofline.own import of_origin
from dsocr_nvtx.schema.records import CostState, Stage

MOST_UNCERTAIN = 0.01
"""Share of busy time whose cost may be uncertain: rates, which leave that cost out, are then as good as whole."""


def uncertain_calls(ranges: pa.Table) -> dict[CostState, Mask]:
    """Return which ranges that ran have a cost that is not known, or is contradicted; older tables tell of none."""
    ran, states = ~of_origin(ranges, "captured"), (CostState.UNKNOWN, CostState.CONTRADICTED)
    if "cost_state" not in ranges.column_names:
        return dict.fromkeys(states, np.zeros(len(ranges), bool))
    return {state: ran & rows_with(ranges, "cost_state", state) for state in states}


def doubts(ranges: pa.Table, group: Ints, count: int) -> dict[str, Ints]:
    """Return, per group of ranges, how many costs are not known or contradicted, and the busy time of those ranges."""
    states = uncertain_calls(ranges)
    found = {f"{s}_calls": np.bincount(group[mask], minlength=count).astype(np.int64) for s, mask in states.items()}
    mine = np.flatnonzero(np.logical_or.reduce(list(states.values())))
    found["uncertain_ns"] = np.zeros(count, np.int64)
    np.add.at(found["uncertain_ns"], group[mine], numbers(ranges, "busy_owned_ns")[mine])
    return found


def certain_enough(uncertain: Ints, busy: Ints) -> Mask:
    """Return which rows' rates may be told: little of their busy time is of calls whose cost is uncertain."""
    return np.asarray(uncertain <= MOST_UNCERTAIN * busy, bool)


def modelled(labels: Mapping[str, object]) -> Mask:
    """Return which rows are of the model: of stage and kind, where they have one, neither is that of host work."""
    # As lists: where pandas is installed Arrow imports it to make an array of words.
    words = [pa.table({name: labels[name]})[name].to_pylist() for name in ("stage", "kind") if name in labels]
    return np.array([Stage.HOST not in each for each in zip(*words, strict=True)], bool)


_RATES = ("achieved_tflops", "achieved_gbps", "intensity", "efficiency", "above_roof", "mfu", "mbu")
"""Columns that rest on costs and may be null, but for the bound."""


def judged(columns: Mapping[str, object], certain: Mask, of_model: Mask) -> dict[str, object]:
    """Return columns, null rates in rows whose costs are not certain, and rates and bound in rows not of the model."""
    told = {**dict.fromkeys(_RATES, certain & of_model), "bound": of_model}
    return {n: _null(c, ~told[n]) if n in told and not told[n].all() else c for n, c in columns.items()}


def _null(values: object, where: Mask) -> pa.Array:
    column = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pc.if_else(pa.array(where), pa.scalar(None, column.type), column)  # type: ignore[union-attr]


_NEEDS_ROOFS = ("efficiency", "bound", "above_roof", "mfu", "mbu")


def unjudged(columns: Mapping[str, object]) -> dict[str, object]:
    """Return columns of ROOFLINE or STAGES with null in those that say nothing without roofs."""
    return {name: _nothing(values) if name in _NEEDS_ROOFS else values for name, values in columns.items()}


def _nothing(column: object) -> pa.Array:
    return pa.nulls(len(column), column.type) if isinstance(column, pa.Array | pa.ChunkedArray) else column
