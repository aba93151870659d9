"""Device time per hooked call: sums, unions, and the owned busy and idle time that adds up to the wall."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.ingest.words import distinct
from dsocr_nvtx.join.attribution import Attribution
from dsocr_nvtx.join.columns import Ints, blocks, coded, groups, numbers, sorting, taken
from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.join.ownership import (
    Cause,
    Gaps,
    busy_owned,
    cause_of,
    gaps,
    idle_blocks,
    union_by_group,
)

IDLE_CAUSES = (Cause.LAUNCH, Cause.SYNC, Cause.MEMORY, Cause.HOST)


@frozen(kw_only=True, eq=False)
class DeviceTime:
    """One device's wall time and who owns it. ``idle_ns`` is by cause; cause ``none`` has no range to own it."""

    device: int
    window: tuple[int, int]
    operations: int
    busy_ns: int
    idle_ns: dict[str, int]
    unknown_thread_ns: int

    @property
    def wall_ns(self) -> int:
        """Length of the window: from the first operation or hooked call to the last."""
        return self.window[1] - self.window[0]


@frozen
class LongGap:
    """One of a device's longest idle times while a hooked call was open; ``operation`` and ``call`` ended it, or -1."""

    device: int
    start: int
    end: int
    operation: int
    call: int


@frozen(eq=False)
class Measured:
    """Times per operation (``op_busy_ns``), per range of the forest, per device, and each device's longest gaps."""

    op_busy_ns: Ints
    launches: Ints
    kernel_ns: Ints
    busy_ns: Ints
    busy_owned_ns: Ints
    idle_ns: dict[Cause, Ints]
    devices: list[DeviceTime]
    longest: list[LongGap]


_LONGEST = 40


def measure(
    operations: pa.Table, launches: pa.Table, found: Attribution, ranges: Forest, gpu: Ints | None = None
) -> Measured:
    """Return all device times. Every operation and every idle nanosecond of a device's window is counted once.

    ``gpu`` says which GPU each operation ran on, where that is more than its ordinal: processes that see different
    devices number them alike.
    """
    start, end = numbers(operations, "start_ns"), numbers(operations, "end_ns")
    device = numbers(operations, "device")
    gpu = device if gpu is None else gpu
    count = len(ranges.order)
    op_busy = np.empty(len(start), np.int64)
    idle = {cause: np.zeros(count, np.int64) for cause in IDLE_CAUSES}
    calls = Forest.build(*(numbers(launches, name) for name in ("pid", "tid", "start_ns", "end_ns")))
    call_cause = _causes(launches)[calls.order]
    devices: list[DeviceTime] = []
    longest: list[LongGap] = []
    which, number = distinct(gpu)
    for one in range(len(which)):
        mine = np.flatnonzero(number == one)
        ordinal = int(device[mine[0]])
        tie = _tie(operations, mine, taken(start, mine))
        op_busy[mine] = busy_owned(taken(start, mine), taken(end, mine), tie)
        window = _window(operations, mine, ranges)
        time, gaps_found = _idle(
            ordinal, mine, tie, window, operations, launches, found, ranges, calls, call_cause, idle, op_busy
        )
        devices.append(time)
        longest.extend(gaps_found)
    owned = np.flatnonzero(found.owner >= 0)
    owner, start, end = (taken(values, owned) for values in (found.owner, start, end))
    return Measured(
        op_busy,
        np.bincount(owner, minlength=count),
        _total(owner, end - start, count),
        union_by_group(owner, start, end, count),
        _total(owner, taken(op_busy, owned), count),
        idle,
        devices,
        longest,
    )


def _total(group: Ints, values: Ints, count: int) -> Ints:
    total = np.zeros(count, np.int64)
    np.add.at(total, group, values)
    return total


def _causes(launches: pa.Table) -> npt.NDArray[np.int8]:
    codes, names = coded(launches, "name")
    return np.array([list(Cause).index(cause_of(name)) for name in names], np.int8).take(codes)


def _tie(operations: pa.Table, mine: Ints, start: Ints) -> Ints:
    """Return a rank by what an operation is, so that equal times are ordered the same in any row order."""
    begins = start[sorting(start)]
    if (begins[1:] > begins[:-1]).all():  # no two begin together
        return np.broadcast_to(np.int64(0), len(mine))
    keys = [numbers(operations, name)[mine] for name in ("bytes", "blocks", "correlation_id", "stream", "pid")]
    rank = np.empty(len(mine), np.int64)
    rank[np.lexsort(keys)] = np.arange(len(mine))
    return rank


def _window(operations: pa.Table, mine: Ints, ranges: Forest) -> tuple[int, int]:
    """Return the device's wall window: its operations and the hooked calls of the processes that use it."""
    pids = set(distinct(taken(numbers(operations, "pid"), mine))[0].tolist())
    spans = [span for (pid, _), span in ranges.spans.items() if pid in pids]
    starts = [taken(numbers(operations, "start_ns"), mine), *(ranges.start[span] for span in spans)]
    ends = [taken(numbers(operations, "end_ns"), mine), *(ranges.end[span] for span in spans)]
    return int(min(values.min() for values in starts)), int(max(values.max() for values in ends))


def _idle(
    ordinal: int,
    mine: Ints,
    tie: Ints,
    window: tuple[int, int],
    operations: pa.Table,
    launches: pa.Table,
    found: Attribution,
    ranges: Forest,
    calls: Forest,
    call_cause: npt.NDArray[np.int8],
    idle: dict[Cause, Ints],
    op_busy: Ints,
) -> tuple[DeviceTime, list[LongGap]]:
    start = taken(numbers(operations, "start_ns"), mine)
    empty = gaps(start, taken(numbers(operations, "end_ns"), mine), tie, window)
    # After the last operation nothing is launched any more: the thread of the last one still owns what follows.
    latest = np.flatnonzero(start == start.max())
    empty.next_op[empty.next_op < 0] = latest[np.argsort(tie[latest], kind="stable")[-1]]
    threads, thread = _launching(empty, mine, launches, found)
    # One row per range and one more for no range, which comes first; one column per cause.
    table = np.zeros((len(ranges.order) + 1, len(Cause)), np.int64)
    for pieces in idle_blocks(empty, threads, thread, ranges, calls, call_cause):
        np.add.at(table.reshape(-1), (pieces.owner + 1) * len(Cause) + pieces.cause, pieces.end - pieces.start)
    for cause in IDLE_CAUSES:
        idle[cause] += table[1:, list(Cause).index(cause)]
    by_cause = {str(c): int(total) for c, total in zip(Cause, table.sum(axis=0), strict=True)}
    time = DeviceTime(
        device=ordinal,
        window=window,
        operations=len(mine),
        busy_ns=int(taken(op_busy, mine).sum()),
        idle_ns=by_cause,
        unknown_thread_ns=int((empty.end - empty.start)[thread < 0].sum()),
    )
    most = _longest(empty, ranges)
    next_op = mine[empty.next_op[most]]
    rows = zip(*(v.tolist() for v in (empty.start[most], empty.end[most], next_op, found.call[next_op])), strict=True)
    return time, [LongGap(int(ordinal), *row) for row in rows]


def _launching(
    empty: Gaps, mine: Ints, launches: pa.Table, found: Attribution
) -> tuple[list[tuple[int, int]], npt.NDArray[np.int32]]:
    """Return the threads that make calls, and which of them launched what ends each gap, -1 where that is not known."""
    pid, tid = numbers(launches, "pid"), numbers(launches, "tid")
    number, first = groups(pid, tid)
    thread = np.full(len(empty.start), -1, np.int32)
    for part in blocks(len(thread) if len(number) else 0):
        call = found.call[mine[empty.next_op[part]]]
        thread[part] = np.where(call >= 0, number[call], -1)
    return list(zip(pid[first].tolist(), tid[first].tolist(), strict=True)), thread


def _longest(empty: Gaps, ranges: Forest) -> Ints:
    """Return the longest gaps in which a hooked call was open, longest first."""
    hooked = (empty.end > ranges.start.min()) & (empty.start < ranges.end.max())
    length = (empty.end - empty.start) * hooked  # no gap is of length 0
    least = max(int(np.partition(length, -_LONGEST)[-_LONGEST]), 1) if len(length) > _LONGEST else 1
    most = np.flatnonzero(length >= least)
    return most[np.lexsort((empty.start[most], -length[most]))[:_LONGEST]]
