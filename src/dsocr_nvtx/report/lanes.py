"""Where slices of a trace are drawn: viewers' processes and threads, and lanes for what overlaps on one of them.

A viewer shows a thread's slices as a stack: one that begins inside another must end inside it, or it is dropped. What
does not fit goes to a further lane, a thread of its own with the same name and a number.
"""

import numpy as np
from attrs import frozen

from dsocr_nvtx.join.columns import Ints, groups

_MOST = 2**31 - 1
"""Larger process and thread ids, and those below 1, do not fit a viewer; then all are numbered from 1."""


@frozen(eq=False)
class Tracks:
    """Per slice the viewer's process and thread; ``names`` has (process, thread, name) of each thread."""

    pid: Ints
    tid: Ints
    names: list[tuple[int, int, str]]


def fitting(ids: Ints) -> Ints:
    """Return ids that a viewer can hold: these, else their ranks from 1."""
    words, rank = np.unique(ids, return_inverse=True)
    return ids if not len(ids) or (words[0] >= 1 and words[-1] <= _MOST) else rank + 1


def lanes(start: Ints, end: Ints, *, nested: bool) -> Ints:
    """Return a lane per interval, the lowest in which it overlaps none or, if ``nested``, lies inside those it meets.

    Intervals are half-open; one of no length meets only what began before it and goes on after it.
    """
    order = np.lexsort((-end if nested else end, start))
    lane = np.zeros(len(start), np.int64)
    if not nested and (start[order][1:] >= np.maximum.accumulate(end[order])[:-1]).all():
        return lane
    stacks: list[list[int]] = []
    for row, begins, ends in zip(order.tolist(), start[order].tolist(), end[order].tolist(), strict=True):
        lane[row] = _place(stacks, begins, ends, nested=nested)
    return lane


def _place(stacks: list[list[int]], begins: int, ends: int, *, nested: bool) -> int:
    for number, stack in enumerate(stacks):
        while stack and stack[-1] <= begins:
            stack.pop()
        if not stack or (nested and ends <= stack[-1]):
            stack.append(ends)
            return number
    stacks.append([ends])
    return len(stacks) - 1


def tracks(
    pid: Ints,
    thread: Ints,
    label: str,
    start: Ints,
    end: Ints,
    *,
    nested: bool,
    tid: Ints | None = None,
    after: int = 0,
) -> Tracks:
    """Lay out slices of (process, thread) in lanes; threads are called ``label`` and their id.

    The first lane of a thread has the viewer's id ``tid``; where none is given, lanes are numbered from ``after`` + 1
    within each process.
    """
    group, first = groups(pid, thread)
    lane = np.zeros(len(pid), np.int64)
    for one in range(len(first)):
        mine = np.flatnonzero(group == one)
        lane[mine] = lanes(start[mine], end[mine], nested=nested)
    key, first = groups(pid, lane, group)
    given = _numbered(pid[first]) + after if tid is None else tid[first]
    extra = lane[first] > 0
    if tid is not None and extra.any():
        given = np.where(extra, int(tid.max()) + np.cumsum(extra), given)
    names = [
        (int(pid[row]), int(number), f"{label} {thread[row]}" + (f" ({lane[row] + 1})" if lane[row] else ""))
        for row, number in zip(first, given, strict=True)
    ]
    return Tracks(pid, given[key], names)


def _numbered(ids: Ints) -> Ints:
    """Return 1, 2, ... within each run of equal ids."""
    at = np.arange(len(ids))
    begins = np.append(True, np.diff(ids) != 0)[: len(ids)]
    return at - np.maximum.accumulate(np.where(begins, at, 0)) + 1
