"""The longest idle times of each device, with a name: where the launching thread was, what it called, who called it."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow as pa
from attrs import evolve, frozen

from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.columns import Ints, Places, Rows, numbers, rows_at, rows_where, sorting
from dsocr_nvtx.join.host_work import HostWork
from dsocr_nvtx.join.ranges import Ranges
from dsocr_nvtx.join.times import LongGap

_MOST_CALLS = 5


@frozen
class StallCall:
    """The API calls of one name during a stall, and how much of it they lasted."""

    name: str
    calls: int
    ns: int


@frozen(kw_only=True)
class Stall:
    """One long idle time of a device.

    ``path``, ``stage`` and ``step`` are of the innermost hooked call open when it ended on the thread that ended it,
    else of the host range that counts at that instant (`dsocr_nvtx.join.host_work`);
    ``calls`` are that thread's during the stall, longest first; ``stack`` is what called the longest of them that has a
    backtrace, else the launch that ended the stall, innermost frame first.
    """

    device: int
    start_ns: int
    ns: int
    next_operation: str | None
    pid: int | None = None
    tid: int | None = None
    path: str | None = None
    stage: str | None = None
    step: int | None = None
    calls: tuple[StallCall, ...] = ()
    stack: tuple[str, ...] = ()


def stalls(trace: Trace, every: Ranges, longest: list[LongGap]) -> tuple[Stall, ...]:
    """Return the stalls behind the longest gaps, in the order given."""
    columns = {name: numbers(trace.launches, name) for name in ("pid", "tid", "start_ns", "end_ns")}
    calls_of = cache(lambda pid, tid: _ThreadCalls.of(columns, pid, tid))
    host = HostWork.of(every.nvtx, every.forest)
    return tuple(_stall(trace, every, host, columns, calls_of, gap) for gap in longest)


@frozen(eq=False)
class _ThreadCalls:
    """The calls of one thread by start: rows in LAUNCHES, start, end, and the last end up to each."""

    mine: Rows
    order: Rows
    start: Ints
    end: Ints
    ended: Ints

    @classmethod
    def of(cls, columns: dict[str, Ints], pid: int, tid: int) -> "_ThreadCalls":
        mine = rows_where((columns["pid"] == pid) & (columns["tid"] == tid))
        start, end = (columns[name][mine] for name in ("start_ns", "end_ns"))
        order = sorting(start)
        start, end = start[order], end[order]
        one_by_one = isinstance(sorting(end), slice)
        return cls(mine, order, start, end, end if one_by_one else np.maximum.accumulate(end))

    def rows(self, places: Ints) -> Places:
        """Return the rows in LAUNCHES of some of the calls."""
        return rows_at(self.mine, rows_at(self.order, places))

    def during(self, begin: int, end: int) -> Ints:
        """Return the places of the calls under way at some instant between, in order of their rows."""
        some = np.arange(np.searchsorted(self.ended, begin, side="right"), np.searchsorted(self.start, end))
        some = some[self.end[some] > begin]
        return some[np.argsort(self.rows(some))]


def _stall(
    trace: Trace,
    every: Ranges,
    host: HostWork,
    columns: dict[str, Ints],
    calls_of: Callable[[int, int], _ThreadCalls],
    gap: LongGap,
) -> Stall:
    name = trace.operations["name"][gap.operation].as_py() if gap.operation >= 0 else None
    unknown = Stall(device=gap.device, start_ns=gap.start, ns=gap.end - gap.start, next_operation=name)
    if gap.call < 0:
        return unknown
    pid, tid = int(columns["pid"][gap.call]), int(columns["tid"][gap.call])
    calls = calls_of(pid, tid)
    places = calls.during(gap.start, gap.end)
    during = calls.rows(places)
    lasted = np.minimum(calls.end[places], gap.end) - np.maximum(calls.start[places], gap.start)
    longest = during[np.argsort(-lasted, kind="stable")][:_MOST_CALLS].tolist()
    path, stage, step = _place(every, host, (pid, tid), min(gap.end, int(columns["start_ns"][gap.call])))
    return evolve(
        unknown,
        pid=pid,
        tid=tid,
        path=path,
        stage=stage,
        step=step,
        calls=_calls(trace.launches, during, lasted),
        stack=_stack(trace, pid, [*longest, gap.call]),
    )


def _place(
    every: Ranges, host: HostWork, thread: tuple[int, int], time: int
) -> tuple[str | None, str | None, int | None]:
    (found,) = every.forest.innermost(thread, np.array([time]), closed=True).tolist()
    if found < 0:
        found = host.open_at(time)
    if found < 0:
        return None, None, None
    row = int(every.forest.order[found])
    return every.nvtx["path"][row].as_py(), every.nvtx["stage"][row].as_py(), int(every.costs.field("step")[row])


def _calls(launches: pa.Table, during: Places, lasted: Ints) -> tuple[StallCall, ...]:
    total: dict[str, list[int]] = {}
    for name, ns in zip(launches["name"].take(during).to_pylist(), lasted.tolist(), strict=True):
        total.setdefault(name, []).append(ns)
    found = [StallCall(name, len(times), sum(times)) for name, times in total.items()]
    return tuple(sorted(found, key=lambda call: (-call.ns, call.name))[:_MOST_CALLS])


def _stack(trace: Trace, pid: int, calls: list[int]) -> tuple[str, ...]:
    correlation = trace.launches["correlation_id"]
    stacks = (trace.stacks.of(pid, correlation[call].as_py()) for call in calls)
    return next((frames for frames in stacks if frames), ())
