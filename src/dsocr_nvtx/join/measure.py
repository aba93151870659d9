"""Device time per hooked call: sums, unions, and the owned busy and idle time that adds up to the wall."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import define, evolve

from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.ingest.words import distinct
from dsocr_nvtx.join.attribution import Attribution
from dsocr_nvtx.join.columns import Ints, Places, Rows, coded, groups, numbers, rows_at, rows_where, sorting
from dsocr_nvtx.join.elsewhere import Away, Homes
from dsocr_nvtx.join.host_work import HostWork
from dsocr_nvtx.join.instants import Instants, Stretches
from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.join.ownership import QUEUED_AFTER_NS, Cause, Gaps, IdlePieces, busy_owned, cause_of, gaps, idle_blocks
from dsocr_nvtx.join.times import IDLE_CAUSES, DeviceTime, Elsewhere, LongGap, Measured, call_times

_LONGEST = 40
_NO_GAPS = Gaps(*[np.zeros(0, np.int64)] * 4)


def measure(
    operations: pa.Table,
    launches: pa.Table,
    found: Attribution,
    ranges: Forest,
    pid: Places,
    gpu: Places,
    host: HostWork,
    *,
    kept: bool = False,
) -> Measured:
    """Return all device times. Every operation and every idle nanosecond of a device's window is counted once.

    ``pid`` is the process of every range. ``gpu`` says which GPU each operation ran on, which is more than its ordinal:
    processes that see different devices number them alike. ``host`` owns idle time that the launching thread does not.
    Where they are to be ``kept``, what is measured has all instants.
    """
    start, end = numbers(operations, "start_ns"), numbers(operations, "end_ns")
    device = numbers(operations, "device")
    count = len(ranges.order)
    op_busy = np.empty(len(start), np.int64)
    # One row per cause; one column per range and one more for no range, which comes first.
    idle = np.zeros((len(Cause), count + 1), np.int64)
    calls = Forest.build(*(numbers(launches, name) for name in ("pid", "tid", "start_ns", "end_ns")))
    call_cause = _causes(launches)[calls.rows]
    devices: list[DeviceTime] = []
    stretches: list[Stretches] = []
    longest: list[LongGap] = []
    which, number = distinct(gpu)
    homes = Homes.of(operations, number, found.owner, pid)
    away: list[tuple[Ints, Ints]] = []
    for one in range(len(which)):
        mine = rows_where(number == one)
        ordinal = int(device[mine][0])
        tie = _tie(operations, mine, start[mine])
        owned = busy_owned(start[mine], end[mine], tie)
        if isinstance(mine, slice):
            op_busy = owned
        else:
            op_busy[mine] = owned
        window = _window(operations, mine, ranges, host)
        here = idle if len(which) == 1 else np.zeros_like(idle)
        pieces: list[IdlePieces] = []
        keep = pieces.append if kept else _let_go
        time, gaps_found = _idle(
            ordinal,
            mine,
            tie,
            window,
            operations,
            launches,
            found,
            ranges,
            host,
            calls,
            call_cause,
            here,
            op_busy,
            keep,
        )
        if kept:
            stretches.append(Stretches.of(ordinal, end[mine], owned, found.owner[mine], pieces))
        if len(which) > 1:
            away.append(_sorted_home(here, idle, homes.gpu == one))
        devices.append(time)
        longest.extend(gaps_found)
    at_home = (found.owner >= 0) if len(which) == 1 else (found.owner >= 0) & (homes.gpu[found.owner] == number)
    idle_ns = {cause: idle[list(Cause).index(cause), 1:] for cause in IDLE_CAUSES}
    times = call_times(operations, op_busy, rows_where(at_home), found.owner, idle_ns)
    elsewhere = _elsewhere(operations, op_busy, found, number, homes, pid, at_home, away) if len(which) > 1 else None
    instants = Instants(tuple(stretches), homes.gpu) if kept else None
    return Measured(op_busy, times, devices, longest, homes.device, elsewhere, instants)


def _let_go(_: IdlePieces) -> None:
    """Keep nothing."""


def _sorted_home(here: Ints, idle: Ints, is_home: Mask) -> tuple[Ints, Ints]:
    """Add one GPU's idle time, [cause, no range and ranges], to ``idle`` for the ranges whose own GPU it is.

    Return the other ranges that have any, and their idle time, [cause, range].
    """
    idle[:, 0] += here[:, 0]
    idle[:, 1:] += here[:, 1:] * is_home
    strangers = np.flatnonzero(~is_home & here[:, 1:].any(axis=0))
    return strangers, here[:, 1:][:, strangers]


def _elsewhere(
    operations: pa.Table, op_busy: Ints, found: Attribution, number: Places, homes: Homes, pid: Places, at_home: Mask,
    idle: list[tuple[Ints, Ints]],
) -> Elsewhere | None:  # fmt: skip
    mine = np.flatnonzero((found.owner >= 0) & ~at_home)
    away = Away.of((found.owner[mine], number[mine]), [(calls, one) for one, (calls, _) in enumerate(idle)])
    if not len(away.call):
        return None
    of_operation = np.full(len(number), -1)
    of_operation[mine] = away.places(found.owner[mine], number[mine])
    total = np.zeros((len(Cause), len(away.call)), np.int64)
    for one, (calls, ns) in enumerate(idle):
        total[:, away.places(calls, np.full(len(calls), one))] += ns
    idle_ns = {cause: total[list(Cause).index(cause)] for cause in IDLE_CAUSES}
    times = call_times(operations, op_busy, mine, of_operation, idle_ns)
    return Elsewhere(away.call, homes.devices(pid[away.call], away.gpu), times, of_operation)


def _causes(launches: pa.Table) -> npt.NDArray[np.int8]:
    codes, names = coded(launches, "name")
    return np.array([list(Cause).index(cause_of(name)) for name in names], np.int8).take(codes)


def _tie(operations: pa.Table, mine: Rows, start: Ints) -> Ints:
    """Return a rank by what an operation is, so that equal times are ordered the same in any row order."""
    begins = start[sorting(start)]
    if (begins[1:] > begins[:-1]).all():  # no two begin together
        return np.broadcast_to(np.int64(0), len(start))
    keys = [numbers(operations, name)[mine] for name in ("bytes", "blocks", "correlation_id", "stream", "pid")]
    rank = np.empty(len(start), np.int64)
    rank[np.lexsort(keys)] = np.arange(len(start))
    return rank


def _window(operations: pa.Table, mine: Rows, ranges: Forest, host: HostWork) -> tuple[int, int]:
    """Return the device's wall window: its operations, the hooked calls of the processes that use it, all host work."""
    pids = set(distinct(numbers(operations, "pid")[mine])[0].tolist())
    spans = [span for (pid, _), span in ranges.spans.items() if pid in pids]
    starts = [numbers(operations, "start_ns")[mine], *(ranges.start[span] for span in spans)]
    ends = [numbers(operations, "end_ns")[mine], *(ranges.end[span] for span in spans)]
    begins, finishes = [int(values.min()) for values in starts], [int(values.max()) for values in ends]
    return min([*begins, *host.span[:1]]), max([*finishes, *host.span[1:]])


def _idle(
    ordinal: int,
    mine: Rows,
    tie: Ints,
    window: tuple[int, int],
    operations: pa.Table,
    launches: pa.Table,
    found: Attribution,
    ranges: Forest,
    host: HostWork,
    calls: Forest,
    call_cause: npt.NDArray[np.int8],
    idle: Ints,
    op_busy: Ints,
    keep: Callable[[IdlePieces], None],
) -> tuple[DeviceTime, list[LongGap]]:
    start, end = (numbers(operations, name)[mine] for name in ("start_ns", "end_ns"))
    empty = _Launched.of(start, tie, mine, launches, found, ranges)
    by_cause = np.zeros(len(Cause), np.int64)
    launched = map(empty.launched, gaps(start, end, tie, window))
    for pieces in map(host.claimed, idle_blocks(launched, empty.threads, ranges, calls, call_cause)):
        keep(pieces)
        length = pieces.end - pieces.start
        np.add.at(idle.reshape(-1), pieces.cause * np.int64(idle.shape[1]) + pieces.owner + 1, length)
        np.add.at(by_cause, pieces.cause, length)
    time = DeviceTime(
        device=ordinal,
        window=window,
        operations=len(start),
        busy_ns=int(op_busy[mine].sum()),
        idle_ns={str(cause): total for cause, total in zip(Cause, by_cause.tolist(), strict=True)},
        unknown_thread_ns=empty.unknown_ns,
    )
    most = empty.longest
    next_op = rows_at(mine, most.next_op)
    rows = zip(*(v.tolist() for v in (most.start, most.end, next_op, found.call[next_op])), strict=True)
    return time, [LongGap(int(ordinal), *row) for row in rows]


@define(eq=False)
class _Launched:
    """Which threads launched what ends a device's gaps.

    Of the gaps that it was asked for: the ``longest`` in which a hooked call was open, longest first, and how long all
    of those were whose thread is not known.
    """

    mine: Rows
    last: int
    threads: list[tuple[int, int]]
    caller: Ints
    call: Places
    returned: Ints
    hooked: tuple[int, int]
    longest: Gaps = _NO_GAPS
    unknown_ns: int = 0

    @classmethod
    def of(
        cls, start: Ints, tie: Ints, mine: Rows, launches: pa.Table, found: Attribution, ranges: Forest
    ) -> "_Launched":
        """Look at the gaps between operations of one device, which are ``mine``."""
        # After the last operation nothing is launched any more: the thread of the last one still owns what follows.
        latest = np.flatnonzero(start == start.max())
        last = int(latest[np.argsort(tie[latest], kind="stable")[-1]])
        pid, tid = numbers(launches, "pid"), numbers(launches, "tid")
        caller, first = groups(pid, tid)
        threads = list(zip(pid[first].tolist(), tid[first].tolist(), strict=True))
        hooked = int(ranges.start.min()), int(ranges.end.max())
        return cls(mine, last, threads, caller, found.call, numbers(launches, "end_ns"), hooked)

    def launched(self, empty: Gaps) -> tuple[Gaps, Places]:
        """Return gaps, and of each which thread launched what ends it, -1 where that is not known.

        Their ``queued`` is then told by when the launch call returned.
        """
        ends = empty.next_op >= 0
        empty.next_op[~ends] = self.last
        call = self.call[rows_at(self.mine, empty.next_op)]
        thread = np.where(call >= 0, self.caller[call], -1) if len(self.caller) else np.full(len(call), -1)
        if len(self.returned):
            queued = np.clip(self.returned[call] + QUEUED_AFTER_NS, empty.start, empty.end)
            empty = evolve(empty, queued=np.where(ends & (call >= 0), queued, empty.end))
        self.unknown_ns += int((empty.end - empty.start)[thread < 0].sum())
        self.longest = _longest(self.longest, empty, self.hooked)
        return empty, thread


def _longest(one: Gaps, other: Gaps, hooked: tuple[int, int]) -> Gaps:
    """Return the longest of some gaps and others that reach into an interval, longest first."""
    names = ("start", "end", "next_op", "queued")
    start, end, next_op, queued = (np.concatenate([getattr(g, n) for g in (one, other)]) for n in names)
    length = (end - start) * ((end > hooked[0]) & (start < hooked[1]))  # no gap is of length 0
    least = max(int(np.partition(length, -_LONGEST)[-_LONGEST]), 1) if len(length) > _LONGEST else 1
    most = np.flatnonzero(length >= least)
    most = most[np.lexsort((start[most], -length[most]))[:_LONGEST]]
    return Gaps(start[most], end[most], next_op[most], queued[most])
