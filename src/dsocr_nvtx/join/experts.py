"""The experts that a run really hit, from the marks its hooks made after the steps: they override expected ones."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.columns import Ints, Places, groups, numbers, rows_of
from dsocr_nvtx.join.replays import Ranges
from dsocr_nvtx.schema.payload import EXPERTS_PREFIX, parse_experts_mark


@frozen(eq=False)
class _Told:
    """One call of experts per row: the range its cost lies in, the bytes announced for it, the bytes of those hit.

    Of a launched CUDA graph the range is the one captured, and ``step`` tells the launches apart.
    """

    pid: Ints
    event: Ints
    step: Ints
    expected: Ints
    observed: Ints


def observed_weights(every: Ranges, announcements: pa.Table, where: str) -> pa.Array:
    """Return, per position of the forest, ``weight_bytes`` with the observed experts in it; null where none was.

    What lies around a range is changed with it. Marks of ranges that the report lacks are passed over; refused is a
    mark that speaks of more weights than its range was announced with.
    """
    told, ranges = _told(announcements), every.forest
    order, weights = ranges.order, every.costs.field("weight_bytes")[ranges.order]
    position = _positions(every, told)
    here = np.flatnonzero(position >= 0)
    here = here[weights[position[here]] > 0]
    at, expected, change = position[here], np.zeros(len(order), np.int64), np.zeros(len(order), np.int64)
    np.add.at(expected, at, told.expected[here])
    np.add.at(change, at, (told.observed - told.expected)[here])
    if (expected > weights).any():
        path = every.nvtx["path"][int(order[np.argmax(expected - weights)])].as_py()
        raise Refused(where, f"marks tell of more experts than {path} was announced with", "export the report again")
    seen = (ranges.upward((expected > 0).astype(np.int64)) > 0) & (weights > 0)
    return pa.array(weights + ranges.upward(change), mask=~seen)


def _positions(every: Ranges, told: _Told) -> Places:
    """Return the position of each told range, or -1: of the launch at its step, where its range was captured."""
    order = every.forest.order
    pid, captured = numbers(every.nvtx, "pid")[order], every.captured_event[order]
    plain = rows_of(pid, every.costs.field("event_id")[order], told.pid, told.event)
    mine = np.flatnonzero(captured >= 0)
    if not len(mine):
        return plain
    step = every.costs.field("step")[order][mine]
    key, _ = groups(
        np.concatenate([pid[mine], told.pid]),
        np.concatenate([captured[mine], told.event]),
        np.concatenate([step, told.step]),
    )
    place = np.full(int(key.max()) + 1, -1)
    place[key[: len(mine)]] = mine
    launched = place[key[len(mine) :]]
    return np.where(launched >= 0, launched, plain)


def _told(announcements: pa.Table) -> _Told:
    ours = announcements.filter(pc.starts_with(announcements["text"], EXPERTS_PREFIX))
    marks = dict.fromkeys(zip(numbers(ours, "pid").tolist(), ours["text"].to_pylist(), strict=True))
    rows = [
        (pid, event, mark.step, mark.expected_bytes, count * mark.expert_bytes)
        for pid, text in marks
        if (mark := parse_experts_mark(text)) is not None
        for event, count in mark.distinct
    ]
    return _Told(*np.array(rows, np.int64).reshape(len(rows), 5).T)
