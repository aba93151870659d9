"""What a trace shows beside hooked calls and operations: steps and layers on the GPU, and CUDA calls on the host."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import Ints, coded, groups, known, numbers
from dsocr_nvtx.report.lanes import Tracks, tracks


@frozen(eq=False)
class Lanes:
    """Slices with names of their own: ``table`` has a row for each, with its name and category."""

    table: pa.Table
    pid: Ints
    start: Ints
    end: Ints
    track: Tracks

    @property
    def slices(self) -> tuple[Ints, Ints, Ints, Ints]:
        """The viewer's process and thread, begin and end of each."""
        return self.pid, self.track.tid, self.start, self.end


def stage_lane(kernels: pa.Table, gpu: Ints, after: int) -> Lanes:
    """Return each step on its GPU, from the begin of its first operation to the end of the last."""
    mine = np.flatnonzero(known(kernels, "stage") & known(kernels, "step"))
    stage, stages = coded(kernels, "stage")
    step = numbers(kernels, "step")
    group, first = groups(gpu[mine], stage[mine], step[mine])
    rows = mine[first]
    names = [f"{stages[code]} step {number}" for code, number in zip(stage[rows], step[rows], strict=True)]
    return _lanes(kernels, mine, group, gpu[rows], names, [stages[code] for code in stage[rows]], "steps", after)


def layer_lane(kernels: pa.Table, ranges: pa.Table, call: Ints, parent: Ints, gpu: Ints, after: int) -> Lanes:
    """Return each call of a layer on its GPU, over its operations and those of the calls inside.

    ``call`` is each operation's row in MEASURED, -1: nobody's; ``parent`` the row of the call around each.
    """
    level, levels = coded(ranges, "level")
    is_layer = level == (levels.index("layer") if "layer" in levels else -1)
    layer = call.copy()
    while (up := (layer >= 0) & ~is_layer[layer]).any() if len(ranges) else False:
        layer[up] = parent[layer[up]]
    mine = np.flatnonzero(layer >= 0)
    group, first = groups(gpu[mine], layer[mine])
    rows = layer[mine[first]]
    path, paths = coded(ranges, "path")
    stage, stages = coded(ranges, "stage")
    names, kinds = ([words[code] for code in codes[rows]] for codes, words in ((path, paths), (stage, stages)))
    return _lanes(kernels, mine, group, gpu[mine[first]], names, kinds, "layers", after)


def _lanes(
    kernels: pa.Table, mine: Ints, group: Ints, pid: Ints, names: list[str], kinds: list[str], label: str, after: int
) -> Lanes:
    start, end = np.full(len(pid), np.iinfo(np.int64).max), np.full(len(pid), np.iinfo(np.int64).min)
    np.minimum.at(start, group, numbers(kernels, "start_ns")[mine])
    np.maximum.at(end, group, numbers(kernels, "end_ns")[mine])
    table = pa.table(
        {
            name: pa.array(words, pa.string()).dictionary_encode()
            for name, words in (("name", names), ("category", kinds))
        }
    )
    track = tracks(pid, np.zeros(len(pid), np.int64), label, start, end, nested=False, after=after)
    named = [(one, tid, name.replace(f"{label} 0", label)) for one, tid, name in track.names]
    return Lanes(table, pid, start, end, Tracks(track.pid, track.tid, named))


def api_lane(api: pa.Table, process: Mapping[int, int], after: int) -> Lanes:
    """Return the CUDA calls of the processes that the viewer has, each thread's in a lane of its own."""
    pid = numbers(api, "pid")
    rows = np.flatnonzero(np.isin(pid, list(process)))
    shown = np.array([process[one] for one in pid[rows].tolist()], np.int64)
    start, end, thread = (numbers(api, name)[rows] for name in ("start_ns", "end_ns", "tid"))
    track = tracks(shown, thread, "CUDA calls of thread", start, end, nested=True, after=after)
    codes, words = coded(api, "call")
    name, category = (
        pa.array(words, pa.string()).take(pa.array(codes[rows])),
        pa.array(["cuda"] * len(rows), pa.string()),
    )
    table = pa.table({"name": name.dictionary_encode(), "category": category.dictionary_encode()})
    return Lanes(table, shown, start, end, track)


def inclusive(ranges: pa.Table, parent: Ints, columns: tuple[str, ...]) -> pa.Table:
    """Return sums of each call and all calls inside it, null for a call that has none inside."""
    has = np.zeros(len(ranges), bool)
    has[parent[parent >= 0]] = True
    found = {}
    for name in columns:
        own = numbers(ranges, name)
        total = own.copy()
        at, up = np.arange(len(ranges)), parent.copy()
        while (inside := up >= 0).any():
            at, up = at[inside], up[inside]
            np.add.at(total, up, own[at])
            up = parent[up]
        found[f"inclusive_{name}"] = pa.array(total, mask=~has)
    return pa.table(found)
