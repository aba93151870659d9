"""The experts that a run really hit, from the marks its hooks made after the steps: they override expected ones."""

import numpy as np
import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.columns import Places, groups, numbers, rows_of
from dsocr_nvtx.join.ranges import Ranges


def observed_weights(every: Ranges, hits: pa.Table, where: str) -> pa.Array:
    """Return, per position of the forest, ``weight_bytes`` with the observed experts in it; null where none was.

    What lies around a range in which experts were observed counts as observed too. HITS of ranges that the report lacks
    are passed over; refused is one that speaks of more weights than its range was announced with.
    """
    ranges = every.forest
    if not len(hits):
        return pa.nulls(len(ranges.order), pa.int64())
    order, weights = ranges.order, every.costs.field("weight_bytes")[ranges.order]
    position = _positions(every, hits)
    here = np.flatnonzero(position >= 0)
    here = here[weights[position[here]] > 0]
    at, expected, change = position[here], np.zeros(len(order), np.int64), np.zeros(len(order), np.int64)
    told, seen = (numbers(hits, name)[here] for name in ("expected_bytes", "observed_bytes"))
    np.add.at(expected, at, told)
    np.add.at(change, at, seen - told)
    if (expected > weights).any():
        path = every.nvtx["path"][int(order[np.argmax(expected - weights)])].as_py()
        raise Refused(where, f"marks tell of more experts than {path} was announced with", "export the report again")
    inside = (ranges.upward((expected > 0).astype(np.int64)) > 0) & (weights > 0)
    return pa.array(weights + change, mask=~inside)


def _positions(every: Ranges, hits: pa.Table) -> Places:
    """Return the position of each told range, or -1: of the launch at its step, where its range was captured."""
    order = every.forest.order
    their_pid, event, their_step = (numbers(hits, name) for name in ("pid", "event_id", "step"))
    pid, captured = numbers(every.nvtx, "pid")[order], every.captured_event[order]
    plain = rows_of(pid, every.costs.field("event_id")[order], their_pid, event)
    mine = np.flatnonzero(captured >= 0)
    if not len(mine):
        return plain
    step = every.costs.field("step")[order][mine]
    key, _ = groups(
        np.concatenate([pid[mine], their_pid]),
        np.concatenate([captured[mine], event]),
        np.concatenate([step, their_step]),
    )
    place = np.full(int(key.max()) + 1, -1)
    place[key[: len(mine)]] = mine
    launched = place[key[len(mine) :]]
    return np.where(launched >= 0, launched, plain)
