"""Ranges that nest on one thread: who contains whom, and which is innermost at an instant.

Contract: a `Forest` holds intervals of any number of threads; within a thread they nest or are disjoint, as pushes and
pops make them. All searches are vectorised and take O(log n) rounds.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import numpy as np
from attrs import frozen

from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.columns import Ints, Rows, blocks, falling, groups, rows_at, sorting

_STEPS = 16
"""Containers that are tried one by one; in most reports no interval has so many."""


@frozen(eq=False)
class Forest:
    """Intervals sorted by (thread, start, longest first), each with its parent's position, or -1.

    ``rows`` maps a position here to the row that the interval came from. ``spans`` maps a thread to its slice.
    """

    rows: Rows
    start: Ints
    end: Ints
    parent: Ints
    spans: dict[tuple[int, int], slice]

    @classmethod
    def build(cls, pid: Ints, tid: Ints, start: Ints, end: Ints) -> "Forest":
        """Sort intervals into threads and find each one's parent."""
        rows = sorting(pid, tid, start, falling(end))
        pid, tid, start, end = (values[rows] for values in (pid, tid, start, end))
        thread, _ = groups(pid, tid)
        spans = {(int(pid[lo]), int(tid[lo])): slice(lo, hi) for lo, hi in _threads(thread)}
        return cls(rows, start, end, nearest_containers(end, thread), spans)

    @cached_property
    def order(self) -> Ints:
        """The row of each position."""
        return np.arange(len(self.start)) if isinstance(self.rows, slice) else self.rows

    @cached_property
    def depth(self) -> Ints:
        """How many intervals contain each."""
        return depths(self.parent)

    def innermost(self, thread: tuple[int, int], times: Ints, *, closed: bool) -> Ints:
        """Return the position of the innermost interval open at each instant on a thread, or -1.

        ``closed``: an interval still counts as open at its end (how an API call at that instant is judged), else the
        instant belongs to what follows (how time is divided).
        """
        span = self.spans.get(thread)
        if span is None:
            return np.full(len(times), -1)
        found = np.searchsorted(self.start[span], times, side="right")
        found += span.start - 1
        found[found < span.start] = -1
        return self.climb(found, times, closed=closed)

    def climb(self, found: Ints, times: Ints, *, closed: bool) -> Ints:
        """Go up from the interval that began last before each instant to the first one still open."""
        if not len(self.end):
            return found
        climbing = np.flatnonzero((found >= 0) & self._over(found, times, closed))
        for _ in range(_STEPS):
            if not len(climbing):
                return found
            found[climbing] = self.parent[found[climbing]]
            climbing = climbing[found[climbing] >= 0]
            climbing = climbing[self._over(found[climbing], times[climbing], closed)]
        # A container ends no sooner than what it holds: leaps that do not go too far, each half as long as the last.
        for above in reversed(self._leaps if len(climbing) else []):
            higher = above[found[climbing]]
            over = (higher >= 0) & self._over(higher, times[climbing], closed)
            found[climbing[over]] = higher[over]
        found[climbing] = self.parent[found[climbing]]
        return found

    @cached_property
    def _leaps(self) -> list[Ints]:
        """Each interval's container, that one's, the fourth, the eighth and so on above it, or -1."""
        leaps = [np.ascontiguousarray(self.parent)]
        while (leaps[-1] >= 0).any():
            above = leaps[-1]
            leaps.append(np.where(above >= 0, above[above], -1))
        return leaps

    def _over(self, position: Ints, times: Ints, closed: bool) -> Mask:
        end = self.end[position]
        return end < times if closed else end <= times

    def timeline(self, thread: tuple[int, int]) -> "Timeline":
        """Return a thread's begins and ends in order; of a thread without intervals, none."""
        span = self.spans.get(thread, slice(0, 0))
        ends = self.end[span]
        return Timeline(self, span, ends[sorting(ends)])

    def upward(self, values: Ints) -> Ints:
        """Return each interval's value plus those of all intervals inside it."""
        total = values.copy()
        for at in self._inside_out:
            np.add.at(total, self.parent[at], total[at])
        return total

    @cached_property
    def _inside_out(self) -> list[Ints]:
        """The intervals that are in another, by depth, the deepest first."""
        order = sorting(self.depth)
        levels = np.searchsorted(self.depth[order], np.arange(int(self.depth.max(initial=0)) + 2)).tolist()
        spans = reversed(list(pairwise(levels))[1:])
        return [np.asarray(rows_at(order, np.arange(low, high)), np.int64) for low, high in spans]


@frozen(eq=False)
class Timeline:
    """One thread's intervals as edges in time: the slice of the forest, and the ends sorted."""

    forest: Forest
    span: slice
    ends: Ints

    def between(self, low: int, high: int) -> tuple[Ints, Ints]:
        """Return the edges from ``low`` to ``high``, and the innermost interval open before, between and after them.

        There is one interval more than there are edges; -1 stands for none.
        """
        starts = self.forest.start[self.span]
        first, last = np.searchsorted(starts, [low, high], side="left")
        ends = self.ends[slice(*np.searchsorted(self.ends, [low, high], side="left"))]
        order, edges = merged(ends, starts[first:last])
        begun = np.concatenate([[0], np.cumsum(order >= len(ends))]) + (first - 1)
        found = np.where(begun < 0, -1, begun + self.span.start)
        # Before the first edge nothing changes: just before it is as good an instant as ``low``.
        times = np.concatenate([edges[:1] - 1 if len(edges) else [low], edges])
        return edges, self.forest.climb(found, times, closed=False)


def merged(*runs: Ints) -> tuple[Ints, Ints]:
    """Return (where each came from in the runs end to end, values) of sorted runs; equal values in the runs' order."""
    values = np.concatenate(runs)
    order = np.argsort(values, kind="stable")
    return order, values[order]


def nearest_containers(end: Ints, thread: Ints) -> Ints:
    """Return, for intervals sorted by (thread, start, longest first), the nearest earlier one around each, or -1."""
    # parent(i) is the nearest earlier interval of the thread that ends no sooner. Invariant: everything between
    # candidate(i) and i ends before i does; so when the candidate does too, its own candidate can take its place.
    wrong = np.flatnonzero(_contained(end, thread))
    if not len(wrong):
        return np.broadcast_to(np.int64(-1), len(end))
    candidate = np.full(len(end), -1)
    candidate[wrong] = wrong - 1
    while len(wrong):
        at = candidate[wrong]
        wrong = wrong[(end[at] < end[wrong]) | (thread[at] != thread[wrong])]
        # All at once, from what they were: a candidate's candidate may itself be wrong still, and is asked again.
        candidate[wrong] = candidate[candidate[wrong]]
        wrong = wrong[candidate[wrong] >= 0]
    return candidate


def _contained(end: Ints, thread: Ints) -> Mask:
    """Return which intervals have a container at all: an earlier one of the thread ends no sooner."""
    found = np.zeros(len(end), bool)
    for low, high in _threads(thread):
        last = end[low : low + 1]
        for part in blocks(high - low - 1):
            some = slice(low + 1 + part.start, low + 1 + part.stop)
            until = np.maximum.accumulate(np.append(last, end[some]))
            found[some] = until[:-1] >= end[some]
            last = until[-1:]
    return found


def _threads(thread: Ints) -> Iterator[tuple[int, int]]:
    """Return where each run of one thread begins and ends."""
    edges = (np.flatnonzero(thread[1:] != thread[:-1]) + 1).tolist()
    return pairwise([0, *edges, len(thread)] if len(thread) else [])


def depths(parent: Ints) -> Ints:
    """Return how many containers each interval has, those of its container included."""
    depth = (parent >= 0).astype(np.int64)
    above = np.array(parent)
    # In each round twice as many containers are counted: those of the one that the last round came to are known.
    while len(up := np.flatnonzero(above >= 0)):
        depth[up] += depth[above[up]]
        above[up] = above[above[up]]
    return depth
