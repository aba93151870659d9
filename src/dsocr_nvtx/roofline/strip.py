"""One step of a stage as it ran on one GPU: hooked calls, busy and idle time, CUDA calls, each as intervals of time.

The GPU's time is divided as the join divides it: an instant in which operations run is that of the one that started
first, an idle instant has the cause of `dsocr_nvtx.join.ownership`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.columns import Ints, coded, groups, known, numbers, rows_with
from dsocr_nvtx.join.events import rows_of_events
from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.join.ownership import QUEUED_AFTER_NS, Cause, Gaps, cause_of, gaps, idle_blocks
from dsocr_nvtx.roofline.own import of_origin
from dsocr_nvtx.roofline.tax import taxed

WORK, TAX = "work", "tax"
"""What a GPU is busy with: operations that do the work, and those that a fused kernel would do in passing."""


@frozen(eq=False)
class Spans:
    """Intervals in order of begin; ``code`` says of which of the ``words`` each is."""

    start: Ints
    end: Ints
    code: Ints
    words: Sequence[str]


@frozen(kw_only=True, eq=False)
class Strip:
    """A step from the begin of its first call, or operation, to the end of the last.

    Where the host is ahead, its calls begin while the GPU still works on the step before: then the strip begins when
    that has ended.

    ``layers`` and ``calls`` are its hooked calls at those levels, by path; ``busy`` is by `WORK` and `TAX`, ``idle`` by
    cause, and both fill the time without overlap; ``idle_in`` are the same idle times by the path of the call that owns
    each, empty for none; ``api`` are the CUDA calls of the thread that launched most, by name.
    """

    stage: str
    step: int
    start: int
    end: int
    layers: Spans
    calls: Spans
    busy: Spans
    idle: Spans
    idle_in: Spans
    api: Spans


def step_strip(
    stage: Mapping[str, object], step: int, kernels: pa.Table, ranges: pa.Table, api: pa.Table
) -> Strip | None:
    """Return a step of a row of STAGES, of KERNELS, MEASURED and API_CALLS tables; None where nothing ran in it."""
    ranges = ranges.filter(pa.array((numbers(ranges, "pid") == stage["pid"]) & ~of_origin(ranges, "captured")))
    mine = rows_with(ranges, "stage", str(stage["stage"])) & (numbers(ranges, "step") == step)
    every, ranges = ranges, ranges.filter(pa.array(mine))
    kernels = kernels.filter(pa.array((numbers(kernels, "pid") == stage["pid"]) & _on_device(kernels, stage["device"])))
    own = rows_with(kernels, "stage", str(stage["stage"])) & (numbers(kernels, "step") == step)
    start = np.concatenate([numbers(ranges, "start_ns"), numbers(kernels, "start_ns")[own]])
    end = np.concatenate([numbers(ranges, "end_ns"), numbers(kernels, "end_ns")[own]])
    if not len(start) or end.max() <= start.min():
        return None
    before = numbers(kernels, "end_ns")[~own & (numbers(kernels, "start_ns") < _first(kernels, own))]
    window = max(int(start.min()), int(before.max(initial=start.min()))), int(end.max())
    api = api.filter(pa.array(numbers(api, "pid") == stage["pid"]))
    idle, idle_in = _idle(kernels, _within(every, window), api, window)
    layers, calls = _calls(kernels, ranges)
    return Strip(
        stage=str(stage["stage"]), step=step, start=window[0], end=window[1], layers=layers, calls=calls,
        busy=_busy(kernels, window), idle=idle, idle_in=idle_in, api=_launching(_within(api, window)),
    )  # fmt: skip


def _first(kernels: pa.Table, own: Mask) -> int:
    """Return when the first of a step's operations begins; of none, before everything."""
    start = numbers(kernels, "start_ns")
    return int(start[own].min()) if own.any() else int(start.min(initial=0))


def _on_device(kernels: pa.Table, device: object) -> Mask:
    return np.ones(len(kernels), bool) if device is None else numbers(kernels, "device") == device


def _within(table: pa.Table, window: tuple[int, int]) -> pa.Table:
    """Return the rows under way at some instant of a window."""
    return table.filter(pa.array((numbers(table, "end_ns") > window[0]) & (numbers(table, "start_ns") < window[1])))


def _busy(kernels: pa.Table, window: tuple[int, int]) -> Spans:
    kernels = _within(kernels, window)
    end = numbers(kernels, "end_ns")
    start = end - numbers(kernels, "busy_owned_ns")
    is_tax = taxed(kernels).astype(np.int64)
    kept = np.flatnonzero((end > start) & (start < window[1]))
    kept = kept[np.argsort(start[kept], kind="stable")]
    return Spans(np.maximum(start[kept], window[0]), np.minimum(end[kept], window[1]), is_tax[kept], (WORK, TAX))


def _idle(kernels: pa.Table, ranges: pa.Table, api: pa.Table, window: tuple[int, int]) -> tuple[Spans, Spans]:
    """Return the idle time between operations of the window, up to the next one's begin, by cause and by owner."""
    start, end = numbers(kernels, "start_ns"), numbers(kernels, "end_ns")
    near = np.flatnonzero((end > window[0]) & (start < window[1]))
    after = np.flatnonzero(start >= window[1])
    if len(after):  # what ends the last gap
        near = np.append(near, after[np.argmin(start[after])])
    kernels = kernels.take(pa.array(near))
    returned = _returned(kernels, api)  # of a launch before the window too
    api = _within(api, window)
    calls = Forest.build(*(numbers(api, name) for name in ("pid", "tid", "start_ns", "end_ns")))
    forest = Forest.build(*(numbers(ranges, name) for name in ("pid", "tid", "start_ns", "end_ns")))
    pid, tid = numbers(kernels, "pid"), numbers(kernels, "launch_tid", -1)
    thread, first = groups(pid, tid)
    threads = list(zip(pid[first].tolist(), tid[first].tolist(), strict=True))
    thread = np.where(known(kernels, "launch_tid"), thread, -1)
    codes, names = coded(api, "call")
    cause = np.array([list(Cause).index(cause_of(name)) for name in names] or [0], np.int64)[codes[calls.order]]
    found = list(idle_blocks(_launched(kernels, window, thread, returned), threads, forest, calls, cause))
    parts = {
        name: np.concatenate([np.asarray(getattr(one, name), np.int64) for one in found] or [np.zeros(0, np.int64)])
        for name in ("start", "end", "owner", "cause")
    }
    # Gaps begin before the window or end after it: what is seen is inside.
    begins, finishes = np.maximum(parts["start"], window[0]), np.minimum(parts["end"], window[1])
    kept = np.flatnonzero(finishes > begins)
    kept = kept[np.argsort(begins[kept], kind="stable")]
    path, paths = coded(ranges, "path")
    owner = parts["owner"][kept]
    owned = np.where(owner >= 0, path[forest.order][owner] if len(path) else -1, -1)
    spans = begins[kept], finishes[kept]
    return Spans(*spans, parts["cause"][kept], tuple(map(str, Cause))), Spans(*spans, owned + 1, ("", *paths))


def _launched(kernels: pa.Table, window: tuple[int, int], thread: Ints, returned: Ints) -> Sequence[tuple[Gaps, Ints]]:
    """Return the gaps between operations, from when on each waited queued, and the thread that ended it."""
    start, end = numbers(kernels, "start_ns"), numbers(kernels, "end_ns")
    low, high = min(window[0], int(start.min(initial=window[0]))), max(window[1], int(end.max(initial=window[1])))
    found = []
    for one in gaps(start, end, np.zeros(len(start), np.int64), (low, high)):
        last = one.next_op < 0
        thread_of = np.where(last, thread[-1] if len(thread) else -1, thread[one.next_op] if len(thread) else -1)
        done = returned[one.next_op] if len(returned) else one.end
        queued = np.where(last | (done < 0), one.end, np.clip(done + QUEUED_AFTER_NS, one.start, one.end))
        found.append((Gaps(one.start, one.end, one.next_op, queued), thread_of))
    return found


def _returned(kernels: pa.Table, api: pa.Table) -> Ints:
    """Return when the call that launched each operation returned, -1 where it is not in the table."""
    keys = [
        np.concatenate([numbers(api, one), numbers(kernels, other, -1)])
        for one, other in (("tid", "launch_tid"), ("start_ns", "launch_ns"))
    ]
    key, _ = groups(*keys)
    ended = np.full(int(key.max(initial=0)) + 1, -1, np.int64)
    ended[key[: len(api)]] = numbers(api, "end_ns")
    return np.where(known(kernels, "launch_ns"), ended[key[len(api) :]], -1)


def _calls(kernels: pa.Table, ranges: pa.Table) -> tuple[Spans, Spans]:
    """Return the hooked calls at levels layer and op; those that a graph replayed as long as their operations take."""
    start, end = _spans(kernels, ranges)
    level, levels = coded(ranges, "level")
    path, paths = coded(ranges, "path")
    found = []
    for wanted in ("layer", "op"):
        rows = np.flatnonzero((level == (levels.index(wanted) if wanted in levels else -1)) & (end > start))
        rows = rows[np.argsort(start[rows], kind="stable")]
        found.append(Spans(start[rows], end[rows], path[rows], paths))
    return found[0], found[1]


def _spans(kernels: pa.Table, ranges: pa.Table) -> tuple[Ints, Ints]:
    """Return begin and end of each call: on the host, but of a replayed call over its operations, inner ones too."""
    none = np.iinfo(np.int64).max
    replayed = of_origin(ranges, "replayed")
    start = np.where(replayed, none, numbers(ranges, "start_ns"))
    end = np.where(replayed, -none, numbers(ranges, "end_ns"))
    pid = numbers(kernels, "pid")
    row = rows_of_events(ranges, pid, numbers(kernels, "event_id"))
    row = np.where(known(kernels, "event_id"), row, -1)
    mine = np.flatnonzero((row >= 0) & replayed[row]) if len(ranges) else np.zeros(0, np.int64)
    at = row[mine]
    parent = rows_of_events(ranges, numbers(ranges, "pid"), numbers(ranges, "parent_id"))
    parent = np.where(known(ranges, "parent_id"), parent, -1)
    while len(at):
        np.minimum.at(start, at, numbers(kernels, "start_ns")[mine])
        np.maximum.at(end, at, numbers(kernels, "end_ns")[mine])
        up = parent[at]
        inside = (up >= 0) & replayed[up]
        at, mine = up[inside], mine[inside]
    return start, end


def _launching(api: pa.Table) -> Spans:
    """Return the CUDA calls of the thread that made most of them; outer ones only, so that none overlap."""
    if not len(api):
        nothing = np.zeros(0, np.int64)
        return Spans(nothing, nothing, nothing, ())
    tid = numbers(api, "tid")
    words, count = np.unique(tid, return_counts=True)
    mine = np.flatnonzero(tid == words[np.argmax(count)])
    start, end = numbers(api, "start_ns")[mine], numbers(api, "end_ns")[mine]
    order = np.lexsort((-end, start))
    mine, start, end = mine[order], start[order], end[order]
    until = np.maximum.accumulate(np.append(np.iinfo(np.int64).min, end))[:-1]
    outer = start >= until
    code, names = coded(api, "call")
    return Spans(start[outer], end[outer], code[mine][outer], names)
