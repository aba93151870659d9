"""All ranges of a join, and those of replayed graphs put beside them."""

from enum import StrEnum

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import Ints, coded, numbers, recoded
from dsocr_nvtx.join.costs import RangeCosts
from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.schema.payload import READ_FIELDS
from dsocr_nvtx.schema.records import COST_FIELDS
from dsocr_nvtx.schema.tables import NVTX, PAYLOAD

_PLACED = pa.schema([item for item in NVTX if item.type != PAYLOAD])
"""NVTX without payloads, which are costs by now."""


class Origin(StrEnum):
    """How a range came about; the position is the code."""

    CALL = "call"
    CAPTURED = "captured"
    REPLAYED = "replayed"


@frozen(eq=False)
class Ranges:
    """All ranges of a join: as NVTX rows, their costs, their forest, and the origin of each row.

    Rows of replayed ranges come after those of the report, and so do their positions in the forest; they last no time
    on the host. ``captured_event`` is the event id of the call that a replayed row repeats, -1 for other rows.
    """

    nvtx: pa.Table
    costs: RangeCosts
    forest: Forest
    origin: Ints
    captured_event: Ints


@frozen(eq=False)
class Made:
    """Ranges of replays, as NVTX rows: costs and their source, position of the parent, event id of the captured call.

    Parents may be among them: they come after all positions of the forest.
    """

    rows: pa.Table
    values: Ints
    source: Ints
    parent: Ints
    captured_event: Ints


def repeating_rows(
    nvtx: pa.Table, source: Ints, pid: Ints, tid: Ints, start: Ints, stage: pa.Array | pa.ChunkedArray
) -> pa.Table:
    """Return NVTX rows of ranges that repeat others and last no time."""
    path, paths = coded(nvtx, "path")
    columns = {"pid": pid, "tid": tid, "start_ns": start, "end_ns": start}
    columns |= {"path": recoded(path[source], paths), "stage": stage}
    return pa.table(columns, _PLACED.with_metadata(nvtx.schema.metadata))


def with_replays(plain: Ranges, made: Made) -> Ranges:
    """Return the ranges with those of replays after them; what was captured costs nothing."""
    forest, count = plain.forest, len(plain.nvtx)
    values, start = plain.costs.values, numbers(made.rows, "start_ns")
    captured = plain.origin == list(Origin).index(Origin.CAPTURED)
    for name in (*COST_FIELDS, "own_activation_bytes", "flags"):
        values[captured, READ_FIELDS.index(name)] = 0
    extended = Forest(
        np.concatenate([forest.order, count + np.arange(len(start))]),
        np.concatenate([forest.start, start]),
        np.concatenate([forest.end, start]),
        np.concatenate([forest.parent, made.parent]),
        forest.spans,
    )
    return Ranges(
        pa.concat_tables([plain.nvtx.select(_PLACED.names), made.rows]).unify_dictionaries().combine_chunks(),
        RangeCosts(list(np.concatenate([values, made.values]).T), np.concatenate([plain.costs.source, made.source])),
        extended,
        np.concatenate([plain.origin, np.full(len(start), list(Origin).index(Origin.REPLAYED))]),
        np.concatenate([plain.captured_event, made.captured_event]),
    )
