"""What a trace shows and where: slices, flows and counters laid out on processes and threads, before they are text.

Contract: columns of a `Slices`, `Flows` or `Counters` are of one length; times are ns of the tables. Which calls and
operations are drawn, and how, says `dsocr_nvtx.report.trace`.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from attrs import fields, frozen

from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.columns import Ints, groups, known, numbers
from dsocr_nvtx.join.elsewhere import ELSEWHERE
from dsocr_nvtx.join.events import parent_rows
from dsocr_nvtx.report.lanes import Tracks, fitting, tracks
from dsocr_nvtx.report.overlays import api_lane, inclusive, layer_lane, stage_lane
from dsocr_nvtx.roofline.least import Floats
from dsocr_nvtx.roofline.own import of_origin
from dsocr_nvtx.roofline.rates import Rates
from dsocr_nvtx.schema.joins import process_name

_EXACT = 2**50
"""Nanoseconds below this survive as microseconds in a double, read back as a whole number of nanoseconds."""


@frozen(eq=False)
class Slices:
    """Slices: the table row each stands for, the viewer's process and thread, begin and end."""

    row: Ints
    pid: Ints
    tid: Ints
    start: Ints
    end: Ints


@frozen(eq=False)
class Flows:
    """Flows: the operation each ends at, and the viewer's process, thread and time at which it begins."""

    operation: Ints
    pid: Ints
    tid: Ints
    time: Ints


@frozen(eq=False)
class Counters:
    """Values that hold from each time on, per viewer's process, in time order."""

    pid: Ints
    time: Ints
    flops: Floats
    bytes: Floats
    share: Floats


@frozen(kw_only=True, eq=False)
class Scene:
    """A whole trace. ``origin`` is subtracted from all times; ``left_out`` counts what is not drawn.

    Slices of ``lanes`` are the rows of ``lane_table``; ``inclusive`` has sums of each call and those inside it.
    """

    calls: Slices
    operations: Slices
    lanes: Slices
    lane_table: pa.Table
    inclusive: pa.Table
    flows: Flows
    counters: Counters
    processes: list[tuple[int, str]]
    threads: list[tuple[int, int, str]]
    origin: int
    left_out: Mapping[str, object]


def lay_out(kernels: pa.Table, ranges: pa.Table, found: Rates, device: str, api: pa.Table | None = None) -> Scene:
    """Lay out a join's KERNELS and MEASURED tables and their rates; ``device`` is what the GPUs are called.

    ``api`` is its API_CALLS table, if it has one.
    """
    process, gpu, processes = _processes(kernels, ranges, device)
    start, end = numbers(kernels, "start_ns"), numbers(kernels, "end_ns")
    streams = tracks(gpu, numbers(kernels, "stream"), "stream", start, end, nested=False)
    operations = Slices(np.arange(len(kernels)), gpu, streams.tid, start, end)
    parent = parent_rows(ranges, "ranges.arrow")
    replayed = of_origin(ranges, "replayed") | of_origin(ranges, ELSEWHERE)
    host, on_host = _host_calls(ranges, process, np.flatnonzero(~replayed))
    beside, on_gpu = _replayed_calls(ranges, found, parent, replayed, operations)
    flows = _flows(kernels, found, parent, replayed, host)
    after = int(max(operations.tid.max(initial=0), beside.tid.max(initial=0)))
    steps = stage_lane(kernels, gpu, after)
    layers = layer_lane(kernels, ranges, found.call, parent, gpu, max(after, int(steps.track.tid.max(initial=0))))
    lanes = [steps, layers]
    if api is not None:
        shown = dict(zip(numbers(ranges, "pid").tolist(), process.tolist(), strict=True))
        lanes.append(api_lane(api, shown, int(host.tid.max(initial=0))))
    times = [host.start, host.end, start, end]
    drawn = len(host.row) + len(beside.row)
    return Scene(
        calls=Slices(*(np.concatenate([getattr(host, f.name), getattr(beside, f.name)]) for f in fields(Slices))),
        operations=operations,
        lanes=Slices(np.arange(sum(len(one.pid) for one in lanes)), *_end_to_end([one.slices for one in lanes])),
        lane_table=pa.concat_tables([one.table for one in lanes]),
        inclusive=inclusive(ranges, parent, _SUMMED),
        flows=flows,
        counters=_counters(operations, found, numbers(kernels, "busy_owned_ns")),
        processes=processes,
        threads=[*on_host.names, *(name for one in lanes for name in one.track.names), *streams.names, *on_gpu.names],
        origin=_origin(np.concatenate([*times, *(one.start for one in lanes)])),
        left_out={
            "replayed_calls_without_operations": len(ranges) - drawn,
            "operations_without_flow": len(kernels) - len(flows.operation),
            "plotted": dict(found.plotted),
            "unplotted": dict(found.unplotted),
        },
    )


_SUMMED = ("busy_owned_ns", "idle_owned_ns", "wall_ns", "launches", "tensor_flops")
"""Columns of MEASURED whose sums a containing call shows too."""


def _end_to_end(parts: Sequence[tuple[Ints, ...]]) -> Iterator[Ints]:
    yield from (np.concatenate(columns) for columns in zip(*parts, strict=True))


def _origin(times: Ints) -> int:
    first, last = int(times.min(initial=0)), int(times.max(initial=0))
    return 0 if first >= 0 and last < _EXACT else int(times.min())


def _processes(kernels: pa.Table, ranges: pa.Table, device: str) -> tuple[Ints, Ints, list[tuple[int, str]]]:
    """Return the viewer's process per call and, for its GPU, per operation; and the names of both kinds."""
    real = np.concatenate([numbers(ranges, "pid"), numbers(kernels, "pid")])
    shown = fitting(real)
    host, ordinal = shown[: len(ranges)], numbers(kernels, "device")
    pair, first = groups(real[len(ranges) :], ordinal)
    top = int(shown.max(initial=0)) + 1
    names = [(int(shown[i]), process_name(ranges, int(real[i]))) for i in np.unique(shown, return_index=True)[1]]
    gpus = [
        (top + at, f"GPU {ordinal[i]} of {process_name(ranges, int(real[len(ranges) + i]))}: {device}")
        for at, i in enumerate(first)
    ]
    return host, pair + top, names + gpus


def _host_calls(ranges: pa.Table, process: Ints, rows: Ints) -> tuple[Slices, Tracks]:
    """Return the calls on their threads, outer ones first."""
    start, end, thread = (numbers(ranges, name) for name in ("start_ns", "end_ns", "tid"))
    rows = rows[np.lexsort((-end[rows], start[rows], thread[rows], process[rows]))]
    place = tracks(
        process[rows], thread[rows], "thread", start[rows], end[rows], nested=True, tid=fitting(thread)[rows]
    )
    return Slices(rows, place.pid, place.tid, start[rows], end[rows]), place


def _replayed_calls(
    ranges: pa.Table, found: Rates, parent: Ints, replayed: Mask, operations: Slices
) -> tuple[Slices, Tracks]:
    """Return replayed calls on the GPU that runs them, over their operations and those of the calls inside."""
    none = np.iinfo(np.int64).max
    start, end = np.full(len(ranges), none), np.full(len(ranges), -none)
    gpu = np.full(len(ranges), -1)
    mine = np.flatnonzero(found.call >= 0)
    np.minimum.at(start, found.call[mine], operations.start[mine])
    np.maximum.at(end, found.call[mine], operations.end[mine])
    gpu[found.call[mine]] = operations.pid[mine]
    child = np.flatnonzero(replayed & (parent >= 0))
    for _ in range(_depth(parent, replayed)):
        inside = child[start[child] < none]
        np.minimum.at(start, parent[inside], start[inside])
        np.maximum.at(end, parent[inside], end[inside])
        gpu[parent[inside]] = gpu[inside]
    rows = np.flatnonzero(replayed & (start < none))
    rows = rows[np.lexsort((rows, -end[rows], start[rows], gpu[rows]))]
    thread = numbers(ranges, "tid")[rows]
    after = int(operations.tid.max(initial=0))
    place = tracks(gpu[rows], thread, "replayed by thread", start[rows], end[rows], nested=True, after=after)
    return Slices(rows, place.pid, place.tid, start[rows], end[rows]), place


def _depth(parent: Ints, which: Mask) -> int:
    """Return how many parents in a row lie above any of these rows."""
    at, depth = np.flatnonzero(which), 0
    while len(at) and depth < len(parent):
        at, depth = parent[at][parent[at] >= 0], depth + 1
    return depth


def _flows(kernels: pa.Table, found: Rates, parent: Ints, replayed: Mask, host: Slices) -> Flows:
    """Return a flow from the innermost call on the host around each launch, where both ends lasted any time."""
    place = np.full(len(parent), -1)
    place[host.row] = np.arange(len(host.row))
    call = found.call.copy()
    while (up := (call >= 0) & replayed[call]).any():
        call[up] = parent[call[up]]
    mine = np.flatnonzero((call >= 0) & known(kernels, "launch_ns"))
    at = place[call[mine]]
    lasted = (host.end[at] > host.start[at]) & (numbers(kernels, "end_ns")[mine] > numbers(kernels, "start_ns")[mine])
    mine, at = mine[lasted], at[lasted]
    # An operation launched at the very end of a call is that call's; a viewer counts the end as outside.
    time = np.clip(numbers(kernels, "launch_ns")[mine], host.start[at], host.end[at] - 1)
    # Perfetto takes the slice that began last for the one that is open, though it may have ended: between two calls
    # inside this one, a flow would come from the earlier. Such a flow begins where its call begins.
    stale = (_begun_last(host, at, time) != at) & (_begun_last(host, at, host.start[at]) == at)
    return Flows(mine, host.pid[at], host.tid[at], np.where(stale, host.start[at], time))


def _begun_last(host: Slices, place: Ints, time: Ints) -> Ints:
    """Return the slice that began last, up to a time, on the thread of another, which began by then."""
    lane, _ = groups(host.pid, host.tid)
    count = len(lane)
    order = np.lexsort((np.arange(count), host.start, lane))
    rank = np.lexsort(
        (np.append(np.zeros(count), np.ones(len(place))), np.append(host.start, time), np.append(lane, lane[place]))
    )
    begun = np.cumsum(rank < count) - 1
    answer = np.empty(len(place), np.int64)
    asked = rank >= count
    answer[rank[asked] - count] = order[begun[asked]]
    return answer


def _counters(operations: Slices, found: Rates, owned: Ints) -> Counters:
    """Return the rates where an operation of a call owns the time, and 0 where none does."""
    mine = np.flatnonzero((found.call >= 0) & (owned > 0))
    mine = mine[np.lexsort((operations.end[mine], operations.pid[mine]))]
    pid, call = operations.pid[mine], found.call[mine]
    end = operations.end[mine]
    start = end - owned[mine]
    stops = np.append((start[1:] != end[:-1]) | (pid[1:] != pid[:-1]), True)[: len(mine)]
    order = np.argsort(np.concatenate([np.arange(len(mine)) * 2, np.flatnonzero(stops) * 2 + 1]), kind="stable")
    zero = np.zeros(int(stops.sum()))
    return Counters(
        np.concatenate([pid, pid[stops]])[order],
        np.concatenate([start, end[stops]])[order],
        *(np.concatenate([values[call], zero])[order] for values in (found.flops, found.bytes, found.share)),
    )
