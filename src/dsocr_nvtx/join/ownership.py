"""Who owns each nanosecond of a device: busy time by operation, idle time by the range open on the launching thread.

Busy: an instant in which operations run belongs to the one that started first. Idle: an instant without work belongs to
the innermost range open at that instant on the thread that makes the device's next launch, and has a cause: what that
thread was doing; but ``queued`` once its call had long returned, for then the host is not what the device waits for.
Where no range is open there, host ranges of other threads and processes are asked (`dsocr_nvtx.join.host_work`).
Both divide the device's wall time without remainder.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from enum import StrEnum
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.columns import Ints, Places, blocks, falling, rows_at, sorting
from dsocr_nvtx.join.nesting import Forest, Timeline, merged


class Cause(StrEnum):
    """What the launching thread did while a device was idle, or that it was done by then; the position is the code."""

    LAUNCH = "launch"
    SYNC = "sync"
    MEMORY = "memory"
    HOST = "host"
    QUEUED = "queued"
    NONE = "none"


QUEUED_AFTER_NS = 5_000
"""How long after its launch call returned an operation should have begun. On an H200 that meets no other work it takes
2.1 us, and less than 4.1 us in 999 of 1,000 (25,589 eager launches of the demo, 47,433 of a served run)."""


_SYNC_WORDS = ("Synchronize", "EventQuery", "StreamQuery")
_LAUNCH_WORDS = ("Launch",)
_MEMORY_WORDS = ("Malloc", "Free", "Memcpy", "Memset", "MemAlloc", "MemPrefetch", "cuMem", "HostRegister", "HostAlloc")


def cause_of(call: str) -> Cause:
    """Return what kind of wait an API call is, by its name."""
    for cause, parts in ((Cause.LAUNCH, _LAUNCH_WORDS), (Cause.SYNC, _SYNC_WORDS), (Cause.MEMORY, _MEMORY_WORDS)):
        if any(part in call for part in parts):
            return cause
    return Cause.HOST


def busy_owned(start: Ints, end: Ints, tie: Ints) -> Ints:
    """Return the busy time each operation of one device owns; their sum is the union of all of them.

    ``tie`` orders operations that start and end together, so that the answer does not depend on row order.
    """
    order = sorting(start, falling(end), tie)
    start, end = start[order], end[order]
    owned = np.empty(len(start), np.int64)
    finished = start[0] if len(start) else 0
    for part in blocks(len(start)):
        # What an operation owns begins where all before it have ended.
        until = np.maximum.accumulate(np.append(finished, end[part]))
        owned[part] = np.maximum(end[part] - np.maximum(until[:-1], start[part]), 0)
        finished = until[-1]
    if isinstance(order, slice):
        return owned
    answer = np.empty(len(owned), np.int64)
    answer[order] = owned
    return answer


def union_by_group(group: Places, start: Ints, end: Ints, count: int) -> Ints:
    """Return, per group, the length of the union of its intervals."""
    order = sorting(start)
    group, start, end = group[order], start[order], end[order]
    total, meets = np.zeros(count, np.int64), _meeting(start, end)
    for part in blocks(len(start)):  # its length is all there is to an interval that meets no other
        np.add.at(total, group[part], np.where(meets[part], 0, end[part] - start[part]))
    some = np.flatnonzero(meets)
    np.add.at(total, group[some], _added(group[some], start[some], end[some]))
    return total


def _meeting(start: Ints, end: Ints) -> Mask:
    """Return which intervals, in order of start, meet an earlier or a later one."""
    meets = np.zeros(len(start) + 1, bool)
    finished = start[:1]
    for part in blocks(len(start)):
        until = np.maximum.accumulate(np.append(finished, end[part]))
        crossing = start[part] < until[:-1]
        meets[part.start + 1 : part.stop + 1] |= crossing
        meets[part] |= crossing  # the one before
        finished = until[-1:]
    return meets[1:]


def _added(group: Places, start: Ints, end: Ints) -> Ints:
    """Return what each interval, in order of start, adds to the union of those of its group before it."""
    order = sorting(group)
    group, start, end = group[order], start[order], end[order]
    # Ends as ranks, each group lifted above the last: one running maximum serves all groups and cannot overflow.
    by_end = np.argsort(end, kind="stable")
    rank = np.empty(len(end), np.int64)
    rank[by_end] = np.arange(len(end))
    lift = group.astype(np.int64) * len(end)
    finished = end[by_end[np.maximum.accumulate(rank + lift) - lift]]
    begins = start.copy()
    begins[1:] = np.where(group[1:] == group[:-1], np.maximum(start[1:], finished[:-1]), start[1:])
    added = np.empty(len(group), np.int64)
    added[order] = np.maximum(end - begins, 0)
    return added


@frozen(eq=False)
class Gaps:
    """Idle intervals of one device, in time order; ``next_op`` is the operation that ends each, -1 after the last.

    From ``queued`` on, an instant of each, the operation waited though its launch call had long returned.
    """

    start: Ints
    end: Ints
    next_op: Places
    queued: Ints


_BLOCK = 1 << 14


def gaps(start: Ints, end: Ints, tie: Ints, window: tuple[int, int], *, at_once: int = _BLOCK) -> Iterator[Gaps]:
    """Return the intervals of ``window`` in which none of a device's operations runs; the window covers them all.

    ``tie`` orders operations that start together: the first of them ends the gap. Those that ``at_once`` operations end
    come together, so that memory stays small.
    """
    order = sorting(start, tie)
    finished = np.array(window[:1], np.int64)
    for at in range(0, len(start), at_once):
        rows = rows_at(order, np.arange(at, min(at + at_once, len(start))))
        begins = start[rows]
        until = np.maximum.accumulate(np.append(finished, end[rows]))
        idle = np.flatnonzero(begins > until[:-1])
        yield Gaps(until[idle], begins[idle], rows[idle], begins[idle])
        finished = until[-1:]
    if finished[0] < window[1]:
        last = np.array(window[1:], np.int64)
        yield Gaps(finished, last, np.array([-1]), last)


@frozen(eq=False)
class IdlePieces:
    """Idle time cut where owner or cause changes: position in the range forest (-1: no range open), cause code."""

    start: Ints
    end: Ints
    owner: Ints
    cause: npt.NDArray[np.integer[Any]]


def idle_blocks(
    found: Iterable[tuple[Gaps, Places]],
    thread: list[tuple[int, int]],
    ranges: Forest,
    calls: Forest,
    call_cause: npt.NDArray[np.integer[Any]],
) -> Iterator[IdlePieces]:
    """Cut gaps at every range and call boundary of the thread that makes the next launch.

    ``found`` are some gaps at a time, each with an index into ``thread``, -1 where the launching thread is not known;
    ``call_cause`` is a cause code per position of ``calls``. The pieces of a gap cover it exactly.
    """
    lines = cache(lambda one: (ranges.timeline(thread[one]), calls.timeline(thread[one])))
    alike = (
        (one, some.start[mine], some.queued[mine], some.end[mine])
        for some, launching in found
        for one in np.unique(launching).tolist()
        for mine in [np.flatnonzero(launching == one)]
    )

    def cut(one: int, start: Ints, queued: Ints, end: Ints) -> IdlePieces:
        return _cut(start, queued, end, *lines(one), call_cause) if one >= 0 else _lost(start, end)

    with ThreadPoolExecutor(_WORKERS) as pool:  # numpy works without the GIL
        yield from _ahead(pool, cut, alike)


def _lost(start: Ints, end: Ints) -> IdlePieces:
    return IdlePieces(start, end, np.full(len(start), -1), np.full(len(start), list(Cause).index(Cause.NONE)))


_WORKERS = 2


def _ahead(
    pool: Executor, cut: Callable[[int, Ints, Ints, Ints], IdlePieces], alike: Iterable[tuple[int, Ints, Ints, Ints]]
) -> Iterator[IdlePieces]:
    """Return the pieces of some gaps after the others; few at most wait to be taken, since they need memory."""
    waiting: deque[Future[IdlePieces]] = deque()
    for each in alike:
        waiting.append(pool.submit(cut, *each))
        if len(waiting) > _WORKERS:
            yield waiting.popleft().result()
    yield from (one.result() for one in waiting)


def _cut(
    start: Ints, queued: Ints, end: Ints, ranges: Timeline, calls: Timeline, call_cause: npt.NDArray[np.integer[Any]]
) -> IdlePieces:
    range_edges, range_owner = ranges.between(start[0], end[-1])
    call_edges, call_owner = calls.between(start[0], end[-1])
    # Sorted lists of edges, merged; counting each list's edges so far says what is under way after each edge.
    gap_edges = np.stack([start, queued, end], axis=1).reshape(-1)
    order, edges = merged(range_edges, call_edges, gap_edges)
    in_ranges = np.cumsum(order < len(range_edges), dtype=np.int32)
    in_gaps = np.cumsum(order >= len(range_edges) + len(call_edges), dtype=np.int32)
    part = in_gaps[:-1] % 3  # 0: between gaps, 1: of a gap before, 2: after the operation was queued
    kept = np.flatnonzero((part > 0) & (edges[1:] > edges[:-1]))
    owner = range_owner[in_ranges[kept]]
    call = call_owner[kept + 1 - in_ranges[kept] - in_gaps[kept]]
    host, is_queued, none = (list(Cause).index(cause) for cause in (Cause.HOST, Cause.QUEUED, Cause.NONE))
    cause = np.where(call >= 0, call_cause[call] if len(call_cause) else host, host)
    cause[part[kept] == 2] = is_queued
    cause[owner < 0] = none
    return IdlePieces(edges[kept], edges[kept + 1], owner, cause)
