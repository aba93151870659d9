"""NVTX ranges of every domain projected onto the GPU, by the rules of Nsight Systems' ``nvtx_gpu_proj_trace``.

A range's operations are those whose API call was made on the range's thread, wholly inside it (both ends count), at any
depth. Its projection spans from the first begin to the last end of them; ``gpu_ops`` counts calls, so the launch of a
graph is one. Its level is how many ranges of the thread contain it, domains together; its children and its parent are
those with GPU work.

Where nsys falls short, by its own scripts, and what ``as_nsys=False`` (`--beyond-nsys`) does instead:

| nsys | evidence | instead |
|---|---|---|
| leaves out a range that ends on another thread | it asks ``endGlobalTid IS NULL`` | kept on its first thread |
| lets a range never closed end with the last range | ``end`` NULL becomes the largest end | ends with the trace |
| does not count a graph traced as a whole, its default | it joins kernels, copies and sets only | counted |
"""

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.ingest.nsys_ids import system_pid
from dsocr_nvtx.join.attribution import match_calls
from dsocr_nvtx.join.columns import Ints, coded, groups, known, numbers
from dsocr_nvtx.join.containment import held, lowest, tightest_containers
from dsocr_nvtx.join.nesting import depths
from dsocr_nvtx.schema.tables import PROJECTED, conform


@frozen(eq=False)
class _Calls:
    """API calls that made GPU work: thread, times, and the span of that work."""

    pid: Ints
    tid: Ints
    start: Ints
    end: Ints
    first_begin: Ints
    last_end: Ints


@frozen(eq=False)
class _Nesting:
    """How deep each range lies, and the row of the range that it lies directly in, or -1."""

    level: Ints
    parent: Ints


MOST_STACKED = 64
"""Deeper ranges have no stack: it would grow with the square of the depth."""


def project(ranges: pa.Table, operations: pa.Table, launches: pa.Table, *, as_nsys: bool = True) -> pa.Table:
    """Return PROJECTED: one row per range with GPU work, by start. ``ranges`` is an EVERY_RANGE table."""
    if as_nsys:
        latest = _last(ranges)  # of those too that end on another thread
        codes, words = coded(operations, "operation")
        operations = operations.filter(pa.array(codes != words.index("graph"))) if "graph" in words else operations
        ranges = ranges.filter(pa.array(~known(ranges, "end_tid")))
    else:
        latest = _last(ranges, operations, launches)
    start = numbers(ranges, "start_ns")
    end = np.where(known(ranges, "end_ns"), numbers(ranges, "end_ns"), np.maximum(start, latest))
    calls = _calls(operations, launches)
    level, parent, first, last, count = (np.zeros(len(start), np.int64) for _ in range(5))
    for mine, theirs in _threads(ranges, calls):
        order = mine[np.lexsort((-end[mine], start[mine]))]
        around = tightest_containers(start[order], end[order])
        level[order], parent[order] = depths(around), np.where(around >= 0, order[around], -1)
        first[order], last[order], count[order] = _spans(start[order], end[order], calls, theirs)
    return _table(ranges, start, end, _Nesting(level, parent), first, last, count)


def _last(*tables: pa.Table) -> int:
    """Return the largest end in some tables; where none ended, a time before all others."""
    ends = (numbers(table, "end_ns")[known(table, "end_ns")] for table in tables)
    return max(int(end.max(initial=_BEFORE_ALL)) for end in ends)


_BEFORE_ALL = -(1 << 62)


def _calls(operations: pa.Table, launches: pa.Table) -> _Calls:
    call = match_calls(operations, launches)
    matched = np.flatnonzero(call >= 0)
    matched = matched[np.argsort(call[matched], kind="stable")]
    row, begins = np.unique(call[matched], return_index=True)
    start, end = numbers(operations, "start_ns")[matched], numbers(operations, "end_ns")[matched]
    pid, tid, called, returned = (numbers(launches, name)[row] for name in ("pid", "tid", "start_ns", "end_ns"))
    return _Calls(
        pid,
        tid,
        called,
        returned,
        np.minimum.reduceat(start, begins) if len(begins) else start,
        np.maximum.reduceat(end, begins) if len(begins) else end,
    )


def _threads(ranges: pa.Table, calls: _Calls) -> list[tuple[Ints, Ints]]:
    """Return, per thread with ranges, the rows of its ranges and of its calls, these by start."""
    pid, tid = (np.concatenate([numbers(ranges, n), getattr(calls, n)]) for n in ("pid", "tid"))
    thread, _ = groups(pid, tid)
    order = np.argsort(thread, kind="stable")
    edges = np.searchsorted(thread[order], np.arange(int(thread.max(initial=-1)) + 2))
    found = []
    for at in range(len(edges) - 1):
        rows = order[edges[at] : edges[at + 1]]
        mine, theirs = rows[rows < len(ranges)], rows[rows >= len(ranges)] - len(ranges)
        if len(mine):
            found.append((mine, theirs[np.argsort(calls.start[theirs], kind="stable")]))
    return found


def _spans(start: Ints, end: Ints, calls: _Calls, mine: Ints) -> tuple[Ints, Ints, Ints]:
    """Return (first begin, last end, number of calls) of each range's work; a number of 0 where it has none."""
    pieces = held(start, end, calls.start[mine], calls.end[mine])
    first = np.full(len(start), np.iinfo(np.int64).max)
    last, count = np.full(len(start), np.iinfo(np.int64).min), np.zeros(len(start), np.int64)
    if len(pieces.owner):
        np.minimum.at(first, pieces.owner, lowest(calls.first_begin[mine], pieces.first, pieces.last))
        np.maximum.at(last, pieces.owner, -lowest(-calls.last_end[mine], pieces.first, pieces.last))
        np.add.at(count, pieces.owner, pieces.last - pieces.first)
    return first, last, count


def _table(
    ranges: pa.Table, start: Ints, end: Ints, nesting: _Nesting, first: Ints, last: Ints, count: Ints
) -> pa.Table:
    rows = np.flatnonzero(count)
    rows = rows[np.lexsort((nesting.level[rows], start[rows]))]
    parent, identifier = nesting.parent[rows], numbers(ranges, "range_id")
    inside = parent >= 0
    return conform(
        {
            **{name: ranges[name].take(rows) for name in ("name", "style", "tid")},
            "pid": system_pid(numbers(ranges, "pid")[rows]),
            "start_ns": start[rows],
            "duration_ns": (end - start)[rows],
            "projected_start_ns": first[rows],
            "projected_duration_ns": (last[rows] - first[rows]),
            "gpu_ops": count[rows],
            "level": nesting.level[rows].astype(np.int32),
            "children": np.bincount(parent[inside], minlength=len(start))[rows],
            "range_id": identifier[rows],
            "parent_id": pa.array(identifier[parent], mask=~inside) if len(rows) else identifier[rows],
            "range_stack": _stacks(identifier, nesting, rows),
        },
        PROJECTED,
    )


def _stacks(identifier: Ints, nesting: _Nesting, rows: Ints) -> pa.Array:
    """Return what nsys writes as the stack of each of some ranges: the numbers of those around it, and its own."""
    place = np.full(len(identifier) + 1, -1)
    place[rows] = np.arange(len(rows))
    above, level = place[nesting.parent[rows]].tolist(), nesting.level[rows]
    own, stacks = identifier[rows].tolist(), list[str | None]([None] * len(rows))
    for at in np.argsort(level, kind="stable").tolist():
        if level[at] <= MOST_STACKED:
            stacks[at] = f"{stacks[above[at]] if above[at] >= 0 else ''}:{own[at]}"
    return pa.array(stacks, pa.string())
