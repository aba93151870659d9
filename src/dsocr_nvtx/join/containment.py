"""Intervals of any kind on one line, nested or crossing: which points each holds, and which holds which.

Contract: intervals are closed at both ends, and nothing is assumed of how they lie; start/end ranges and ranges of
different domains may cross. All searches are vectorised.
"""

import numpy as np
from attrs import frozen

from dsocr_nvtx.join.columns import Ints
from dsocr_nvtx.join.nesting import nearest_containers


@frozen(eq=False)
class Slices:
    """Pieces of a sorted sequence, each belonging to an interval: positions from ``first`` up to ``last``."""

    owner: Ints
    first: Ints
    last: Ints


def held(start: Ints, end: Ints, inner_start: Ints, inner_end: Ints) -> Slices:
    """Return which inner intervals lie whole inside each interval, as slices of the inner ones, sorted by start.

    Those that begin inside are one slice; from it are cut the ones that end outside.
    """
    first = np.searchsorted(inner_start, start, side="left")
    last = np.maximum(first, np.searchsorted(inner_start, end, side="right"))
    owner, cut = _straddling(start, end, inner_start, inner_end)
    order = np.lexsort((cut, owner))
    owner, cut = owner[order], cut[order]
    # Every cut ends one slice and begins the next; lists are merged by sorting on (interval, place).
    owners = np.concatenate([np.arange(len(start)), owner])
    begins = np.concatenate([first, cut + 1])
    order = np.lexsort((begins, owners))
    owners, begins = owners[order], begins[order]
    ends = np.empty(len(owners), np.int64)
    stops = np.concatenate([last, cut])
    ends[:] = stops[np.lexsort((stops, np.concatenate([np.arange(len(start)), owner])))]
    kept = ends > begins
    return Slices(owners[kept], begins[kept], ends[kept])


def _straddling(start: Ints, end: Ints, inner_start: Ints, inner_end: Ints) -> tuple[Ints, Ints]:
    """Return (interval, inner) of inner intervals that begin inside an interval and end after it."""
    by_end = np.argsort(end, kind="stable")
    low = np.searchsorted(end[by_end], inner_start, side="left")
    high = np.maximum(low, np.searchsorted(end[by_end], inner_end, side="left"))
    count = high - low
    inner = np.repeat(np.arange(len(inner_start)), count)
    place = np.arange(len(inner)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
    outer = by_end[place]
    crossing = start[outer] <= inner_start[inner]
    return outer[crossing], inner[crossing]


def lowest(values: Ints, first: Ints, last: Ints) -> Ints:
    """Return the lowest value of each non-empty slice.

    Any slice is two overlapping pieces whose length is a power of two; lowest values of such pieces are made by halves.
    """
    answer = np.empty(len(first), np.int64)
    length = last - first
    level, width = values, 1
    while True:
        mine = np.flatnonzero((length >= width) & (length < 2 * width))
        answer[mine] = np.minimum(level[first[mine]], level[last[mine] - width])
        width *= 2
        if not (length >= width).any():
            return answer
        level = np.minimum(level[: len(level) - width // 2], level[width // 2 :])


def tightest_containers(start: Ints, end: Ints) -> Ints:
    """Return, for intervals sorted by (start, longest first), the shortest other one that contains each, or -1.

    Equal intervals contain each other in the order given.
    """
    parent = nearest_containers(end, np.zeros(len(end), np.int64))
    return parent if _nests(start, end, parent) else _shortest(start, end)


def _nests(start: Ints, end: Ints, parent: Ints) -> bool:
    """Say whether no two intervals cross: then siblings are disjoint, and the nearest container is the shortest."""
    order = np.argsort(parent, kind="stable")
    siblings = parent[order][1:] == parent[order][:-1]
    return not (siblings & (end[order][:-1] > start[order][1:])).any()


def _shortest(start: Ints, end: Ints) -> Ints:
    """Divide and conquer: in blocks of doubling width, each right half asks the left half before it."""
    count = len(start)
    place = np.arange(count)
    by_length = np.lexsort((-place, end - start))
    rank = np.empty(count, np.int64)
    rank[by_length] = place
    best = np.full(count, count)
    width = 1
    while width < count:
        block, right = place // (2 * width), (place // width) % 2
        order = np.lexsort((right, -end, block))
        # Each block's ranks are lifted below those of the block before: one running minimum serves all.
        lift = (block.max(initial=0) - block[order]) * (count + 1)
        offered = np.where(right[order] == 1, count, rank[order]) + lift
        found = np.minimum.accumulate(offered) - lift
        best[order] = np.where(right[order] == 1, np.minimum(best[order], found), best[order])
        width *= 2
    return np.where(best < count, by_length[np.minimum(best, count - 1)], -1)
