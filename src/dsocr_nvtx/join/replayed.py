"""The ranges of each launch of a captured graph: those that the recorder wrote out, else copies of those captured."""

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.ingest.source import whole
from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.announced import Announced, Asking
from dsocr_nvtx.join.attribution import Attribution
from dsocr_nvtx.join.columns import Ints, Places, coded, groups, known, latest, numbers, recoded, rows_of, sorting
from dsocr_nvtx.join.costs import CostSource, RangeCosts
from dsocr_nvtx.join.ranges import Made, Ranges, repeating_rows
from dsocr_nvtx.schema.payload import READ_FIELDS
from dsocr_nvtx.schema.values import values_of

_EVENT, _STEP = READ_FIELDS.index("event_id"), READ_FIELDS.index("step")


@frozen(eq=False)
class Replayed:
    """Operations of replayed graphs: their rows, and the position of the range that was captured of each."""

    rows: Ints
    home: Ints


def recorded_replays(
    trace: Trace, plain: Ranges, found: Attribution, within: Ints, replayed: Replayed
) -> tuple[Made, Ints]:
    """Return the ranges that the recorder wrote out, and per operation which of them it belongs to, or -1.

    What was written out at one instant of a thread is one launch: the first of that capture on the thread since then.
    """
    place = np.empty(len(plain.forest.order), np.int64)
    place[plain.forest.order] = np.arange(len(place))
    captured = place[numbers(trace.replays, "captured")]
    order = sorting(*(numbers(trace.replays, name) for name in ("pid", "tid", "time_ns")), captured)
    given, captured = trace.replays.take(pa.array(np.arange(len(captured))[order])), captured[order]
    pid, tid, time = (numbers(given, name) for name in ("pid", "tid", "time_ns"))
    one, first = groups(pid, tid, time, within[captured])
    call, launch = groups(found.call[replayed.rows], within[replayed.home])
    called = found.call[replayed.rows][launch]
    their_pid, their_tid, their_time = (numbers(trace.launches, name)[called] for name in ("pid", "tid", "start_ns"))
    key, _ = groups(
        np.concatenate([pid[first], their_pid]),
        np.concatenate([tid[first], their_tid]),
        np.concatenate([within[captured[first]], within[replayed.home[launch]]]),
    )
    taken = _first_comers(latest(key[: len(first)], time[first], key[len(first) :], their_time), their_time)
    wide = len(place)
    asked = np.where(taken[call] >= 0, taken[call] * wide + replayed.home, -1)
    number = rows_of(np.zeros(len(given), np.int64), one * wide + captured, np.zeros(len(asked), np.int64), asked)
    start = time.copy()
    for at in np.flatnonzero(taken >= 0):
        start[one == taken[at]] = their_time[at]
    return _given(given, plain, captured, start), number.astype(np.int64)


def _first_comers(chosen: Ints, time: Ints) -> Ints:
    """Return what each chose (-1: nothing), where none chose the same before; else -1."""
    order = np.argsort(time, kind="stable")
    _, first = np.unique(chosen[order], return_index=True)
    answer = np.full(len(chosen), -1)
    answer[order[first]] = chosen[order[first]]
    return answer


def _given(given: pa.Table, plain: Ranges, captured: Ints, start: Ints) -> Made:
    nvtx, source = plain.nvtx, plain.forest.order[captured]
    payload = whole(given["payload"])
    values = np.column_stack([values_of(payload.field(name)) for name in READ_FIELDS]).astype(np.int64)
    events = np.concatenate([plain.costs.field("event_id")[plain.forest.order], values[:, _EVENT]])
    pids = np.concatenate([numbers(nvtx, "pid")[plain.forest.order], numbers(given, "pid")])
    parent = rows_of(pids, events, numbers(given, "pid"), numbers(given, "parent_id"))
    stage, stages = coded(given, "stage")
    rows = repeating_rows(
        plain.nvtx, source, numbers(given, "pid"), numbers(given, "tid"), start, recoded(stage, stages)
    )
    told = np.full(len(given), list(CostSource).index(CostSource.BINARY))
    return Made(rows, values, told, np.where(known(given, "parent_id"), parent, -1), np.full(len(given), -1))


def made_replays(
    trace: Trace, announced: Announced, plain: Ranges, found: Attribution, within: Ints, replayed: Replayed
) -> tuple[Made, Ints]:
    """Make a range for each (launch, range of the capture that it replays); return also which each operation has."""
    number, first = groups(found.call[replayed.rows], within[replayed.home])
    call, window = found.call[replayed.rows[first]], within[replayed.home[first]]
    around = found.owner[replayed.rows[first]]
    size = np.bincount(within[within >= 0], minlength=int(within.max(initial=-1)) + 1)
    by_window = np.flatnonzero(within >= 0)[np.argsort(within[within >= 0], kind="stable")]
    begins = np.cumsum(size) - size
    replay_of = np.repeat(np.arange(len(call)), size[window])
    place = np.arange(len(replay_of)) - np.repeat(np.cumsum(size[window]) - size[window], size[window])
    position = by_window[begins[window[replay_of]] + place]
    base, rank = len(plain.forest.order), np.full(len(within), -1)
    rank[by_window] = np.arange(len(by_window)) - begins[within[by_window]]
    offset = np.cumsum(size[window]) - size[window]
    parent = plain.forest.parent[position]
    inside = (parent >= 0) & (within[parent] == window[replay_of])
    parent = np.where(inside, base + offset[replay_of] + rank[parent], around[replay_of])
    made = _copies(trace, announced, plain, (call[replay_of], position, around[replay_of]), parent)
    return made, offset[number] + rank[replayed.home]


def _copies(trace: Trace, announced: Announced, plain: Ranges, of: tuple[Places, Ints, Places], parent: Ints) -> Made:
    """Return the ranges of (launching calls, captured ranges, ranges around the launches or -1)."""
    call, captured, around = of
    nvtx, source = plain.nvtx, plain.forest.order[captured]
    here = np.where(around >= 0, plain.forest.order[around], source)
    stage, stages = coded(nvtx, "stage")
    pid, tid, start = (numbers(trace.launches, name)[call] for name in ("pid", "tid", "start_ns"))
    rows = repeating_rows(nvtx, source, pid, tid, start, recoded(stage[here], stages))
    values, told = _costs(announced, plain.costs, rows, source, numbers(nvtx, "start_ns")[source])
    values[:, _STEP] = plain.costs.field("step")[here]
    values[:, _EVENT] = -1 - len(nvtx) - np.arange(len(source))
    return Made(rows, values, told, parent, plain.costs.field("event_id")[source])


def _costs(
    announced: Announced, costs: RangeCosts, rows: pa.Table, source: Ints, captured_at: Ints
) -> tuple[Ints, Ints]:
    """Return (fields, source) of replayed ranges: the last announcement since the capture, else the capture's."""
    asking = Asking(announced, rows)
    last = asking.last()
    unknown = costs.source[source] == list(CostSource).index(CostSource.NONE)
    values, since = costs.values[source], last >= 0
    since[since] = (announced.time[last[since]] >= captured_at[since]) | unknown[since]
    values[since] = announced.fields(last[since], asking.grown_since(last)[since])
    return values, np.where(since, list(CostSource).index(CostSource.ANNOUNCEMENT), costs.source[source])
