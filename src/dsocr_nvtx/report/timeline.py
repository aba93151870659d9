"""Steps of a stage drawn as strips: hooked calls over what the GPU does over CUDA calls, on one axis of time.

A strip is cut into `COLUMNS` columns. In each the GPU's parts are stacked by their share of that time, so that short
kernels between long waits look as short as they are. Boxes are placed in per cent of the strip's width.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import Ints
from dsocr_nvtx.join.ownership import Cause, cause_of
from dsocr_nvtx.report import words
from dsocr_nvtx.roofline.evidence import stage_steps
from dsocr_nvtx.roofline.least import Floats
from dsocr_nvtx.roofline.strip import TAX, WORK, Spans, Strip, step_strip

COLUMNS = 400
NARROWEST = 0.004
"""Share of a step that a call takes at least to be drawn."""
LABELLED = 0.08
"""Share of a step that the GPU waits at least for the wait to be labelled."""
MOST_STAGES = 6
"""Stages, of one process and GPU each, of which steps are drawn: those with most wall time."""

GPU_PARTS = {
    WORK: ("inefficiency", "busy: work"),
    TAX: ("tax", "busy: tax kernels"),
    Cause.LAUNCH: ("idle_launch", "waits: launch calls"),
    Cause.SYNC: ("idle_sync", "waits: synchronising calls"),
    Cause.MEMORY: ("idle_memory", "waits: allocations, copies"),
    Cause.QUEUED: ("idle_queued", "waits: work queued"),
    Cause.HOST: ("idle_host", "waits: host code"),
    Cause.NONE: ("idle_none", "waits: outside every call"),
}
"""What a GPU does, from the bottom of a strip up: the colour, as in the time budget, and the words."""
API_PARTS = {
    Cause.LAUNCH: ("idle_launch", "launch calls"),
    Cause.SYNC: ("idle_sync", "synchronising calls"),
    Cause.MEMORY: ("idle_memory", "allocations, copies"),
    Cause.HOST: ("unattributed", "other CUDA calls"),
}


@frozen
class Area:
    """One part of a lane: its colour's name, and the outline from the ground up, the parts below it included."""

    part: str
    path: str


@frozen
class Box:
    """A call, or a wait, from ``left`` on, ``width`` wide, in per cent; ``title`` says all of it."""

    left: float
    width: float
    text: str
    title: str


@frozen(kw_only=True)
class Timeline:
    """One step, drawn. ``name`` says which, ``said`` what is seen at a glance, in a sentence each."""

    name: str
    said: str
    layers: tuple[Box, ...]
    calls: tuple[Box, ...]
    gpu: tuple[Area, ...]
    waits: tuple[Box, ...]
    api: tuple[Area, ...]
    ticks: tuple[Box, ...]


def timelines(
    stages: Sequence[Mapping[str, object]], kernels: pa.Table, ranges: pa.Table, api: pa.Table, names: Sequence[str]
) -> list[Timeline]:
    """Return the middle and the slowest step of each row of STAGES; ``names`` is what each row is called."""
    longest = sorted(range(len(stages)), key=lambda at: -words.number(stages[at]["wall_ns"]))[:MOST_STAGES]
    found = []
    for at in sorted(longest):
        for step, which in _chosen(stages[at], ranges).items():
            strip = step_strip(stages[at], step, kernels, ranges, api)
            if strip is not None:
                found.append(_timeline(strip, f"{names[at]}, step {step}{which}"))
    return found


def _chosen(stage: Mapping[str, object], ranges: pa.Table) -> dict[int, str]:
    """Return the steps to draw, and of each why: the one of median wall time, and the slowest."""
    steps = stage_steps(ranges, stage)
    if not len(steps.step):
        return {}
    wall = steps.busy_ns + steps.idle_ns
    order = np.argsort(wall, kind="stable")
    count = len(order)
    if count == 1:
        return {int(steps.step[0]): ", the only one"}
    middle, slowest = int(order[(count - 1) // 2]), int(order[-1])
    return {
        int(steps.step[middle]): f", the middle one of {count:,}",
        int(steps.step[slowest]): f", the slowest of {count:,}",
    }


def _timeline(strip: Strip, name: str) -> Timeline:
    waits = _waits(strip)
    busy = int((strip.busy.end - strip.busy.start).sum())
    said = f"{words.milliseconds(strip.end - strip.start)} ms, the GPU busy for {words.milliseconds(busy)} ms of them"
    longest = max(waits, key=lambda box: box.width, default=None)
    if longest is not None:
        said += f"; its longest wait: {longest.text}"
    causes = [cause_of(word) for word in strip.api.words] or [Cause.HOST]
    kinds = Spans(
        strip.api.start, strip.api.end,
        np.array([list(Cause).index(cause) for cause in causes], np.int64)[strip.api.code], tuple(Cause),
    )  # fmt: skip
    return Timeline(
        name=name,
        said=said,
        layers=_boxes(strip, strip.layers),
        calls=_boxes(strip, strip.calls),
        gpu=_areas(strip, [strip.busy, strip.idle], {part: colour for part, (colour, _) in GPU_PARTS.items()}),
        waits=tuple(box for box in waits if box.width >= 100 * LABELLED),
        api=_areas(strip, [kinds], {part: colour for part, (colour, _) in API_PARTS.items()}),
        ticks=_ticks(strip),
    )


def _boxes(strip: Strip, spans: Spans) -> tuple[Box, ...]:
    least = NARROWEST * (strip.end - strip.start)
    rows = np.flatnonzero(spans.end - spans.start >= least).tolist()
    return tuple(
        _box(
            strip, int(spans.start[row]), int(spans.end[row]), _short(spans.words[spans.code[row]]),
            spans.words[spans.code[row]],
        )
        for row in rows
    )  # fmt: skip


def _short(path: str) -> str:
    """Return the last words of a path: with the layer's number where it ends in one."""
    parts = path.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdecimal() else parts[-1]


def _box(strip: Strip, start: int, end: int, text: str, title: str) -> Box:
    whole = strip.end - strip.start
    left, right = (100 * (min(max(at, strip.start), strip.end) - strip.start) / whole for at in (start, end))
    return Box(round(left, 2), round(right - left, 2), text, f"{title}: {words.milliseconds(end - start)} ms")


def _waits(strip: Strip) -> list[Box]:
    """Return the times in which the GPU does nothing, each from one operation to the next, with its largest cause."""
    idle = strip.idle
    if not len(idle.start):
        return []
    begins = np.append(True, idle.start[1:] != idle.end[:-1])
    group = np.cumsum(begins) - 1
    first, last = np.flatnonzero(begins), np.append(np.flatnonzero(begins)[1:], len(group)) - 1
    length = idle.end - idle.start
    found = []
    for one in np.flatnonzero(idle.end[last] - idle.start[first] >= NARROWEST * (strip.end - strip.start)).tolist():
        mine = slice(first[one], last[one] + 1)
        cause = Cause(idle.words[_most(idle.code[mine], length[mine])])
        path = strip.idle_in.words[_most(strip.idle_in.code[mine], length[mine])]
        why = GPU_PARTS[cause][1] + (f", in {path}" if path else "")
        start, end = int(idle.start[first[one]]), int(idle.end[last[one]])
        text = f"{words.milliseconds(end - start)} ms, {why.removeprefix('waits: ')}"
        found.append(_box(strip, start, end, text, f"the GPU {why}"))
    return found


def _most(codes: Ints, length: Ints) -> int:
    """Return the code with most time."""
    return int(np.argmax(np.bincount(codes, length)))


def _areas(strip: Strip, lanes: Sequence[Spans], colours: Mapping[str, str]) -> tuple[Area, ...]:
    """Return the parts of lanes that do not overlap, the topmost first: each is drawn over by those below it."""
    edges = np.linspace(strip.start, strip.end, COLUMNS + 1)
    shares = {part: np.zeros(COLUMNS) for part in colours}
    for spans in lanes:
        for code, word in enumerate(spans.words):
            if word in shares:
                mine = spans.code == code
                shares[word] += _share(spans.start[mine], spans.end[mine], edges)
    areas = []
    height = np.zeros(COLUMNS)
    for part, share in shares.items():
        height = height + share
        if share.any():
            areas.append(Area(colours[part], _outline(height)))
    return tuple(reversed(areas))


def _share(start: Ints, end: Ints, edges: Floats) -> Floats:
    """Return the share of each column that intervals cover, which are in order and do not overlap."""
    if not len(start):
        return np.zeros(len(edges) - 1)
    done = np.concatenate([[0], np.cumsum(end - start)])
    at = np.searchsorted(start, edges, side="right")
    begun = np.maximum(at - 1, 0)
    covered = np.where(at > 0, done[begun] + np.clip(edges - start[begun], 0, (end - start)[begun]), 0)
    return np.asarray(np.diff(covered) / np.diff(edges), np.float64)


def _outline(height: Floats) -> str:
    """Return the outline of columns as an SVG path, in whole per cent of the height from the top down."""
    tops = [round(100 * (1 - min(value, 1.0))) for value in height.tolist()]
    pieces, before = ["M0 100"], 100
    for at, top in enumerate(tops):
        if top != before:
            pieces.append(f"H{at}V{top}")
            before = top
    return "".join([*pieces, f"H{len(tops)}V100z"])


def _ticks(strip: Strip) -> tuple[Box, ...]:
    """Return five places or so at round numbers of milliseconds."""
    whole = (strip.end - strip.start) / 1e6
    size = 10.0 ** np.floor(np.log10(whole / 5))
    each = next(size * step for step in (1, 2, 5, 10) if whole / (size * step) <= 6)
    return tuple(
        Box(round(100 * at * each / whole, 2), 0.0, f"{at * each:g} ms", "")
        for at in range(int(whole / each) + 1)
        if at * each < 0.92 * whole  # what would not fit beside it
    )
