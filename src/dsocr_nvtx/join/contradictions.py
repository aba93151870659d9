"""Costs that tensors contradicted after they were announced: hooks say so by a mark, once the forward is over."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve

from dsocr_nvtx.join.columns import numbers, rows_of
from dsocr_nvtx.join.costs import RangeCosts
from dsocr_nvtx.join.events import called
from dsocr_nvtx.join.ranges import Origin, Ranges
from dsocr_nvtx.schema.payload import CONTRADICTION_PREFIX, READ_FIELDS, Contradiction, Flag, parse_contradiction_mark

Contradictions = Sequence[tuple[int, Contradiction]]
"""Process and contradiction of every mark that tells of one, in order of time."""
_FLAGS = READ_FIELDS.index("flags")


def read_contradictions(announcements: pa.Table) -> Contradictions:
    """Return the contradictions in an ANNOUNCEMENTS table."""
    ours = announcements.filter(pc.starts_with(announcements["text"], CONTRADICTION_PREFIX)).sort_by("time_ns")
    told = zip(ours["pid"].to_pylist(), ours["text"].to_pylist(), strict=True)
    return [(pid, found) for pid, text in told if (found := parse_contradiction_mark(text)) is not None]


def contradicted(every: Ranges, told: Contradictions) -> Ranges:
    """Return ranges, flagged all calls in those that are told of or in what replays those, as far as costs are known.

    What tells of ranges that the report lacks is passed over.
    """
    if not told:
        return every
    of_pid, of_event = np.array([(pid, one.event_id) for pid, one in told], np.int64).T
    pid, flags = numbers(every.nvtx, "pid"), every.costs.field("flags")
    events = every.costs.field("event_id"), every.captured_event
    named = np.logical_or(*(rows_of(of_pid, of_event, pid, event) >= 0 for event in events))
    inside = named[every.forest.order]
    parent = every.forest.parent
    while (more := ~inside & (parent >= 0) & inside[parent]).any():
        inside |= more
    hit = np.zeros(len(flags), bool)
    hit[every.forest.order] = inside
    priced = called(every.nvtx) & (flags & Flag.UNKNOWN == 0) & (every.origin != list(Origin).index(Origin.CAPTURED))
    columns = list(every.costs.columns)
    columns[_FLAGS] = np.where(hit & priced, flags | Flag.CONTRADICTED, flags)
    return evolve(every, costs=RangeCosts(columns, every.costs.source))
