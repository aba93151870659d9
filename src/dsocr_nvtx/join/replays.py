"""Replayed CUDA graphs: each launch of a graph calls again every range that was open when the graph was captured.

A capture is what a thread did between cudaStreamBeginCapture and cudaStreamEndCapture. A replayed operation names its
graph node, a clone of the node that the capture made (through any number of clones); that node's time lies in a range
of the capture. So every launch gets a range of its own for each range of the capture: where it is in the network comes
from the capture, step and stage from the range around the launch, cost from the last announcement before the launch,
else from the capture. The captured ranges themselves ran nothing: they keep their host time and cost nothing.
"""

from enum import StrEnum

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.announced import Announced, grown_since, last_told
from dsocr_nvtx.join.attribution import Attribution, Bucket
from dsocr_nvtx.join.captures import Captures
from dsocr_nvtx.join.columns import Ints, Places, coded, groups, known, latest, numbers, recoded
from dsocr_nvtx.join.costs import CostSource, RangeCosts
from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.schema.payload_v1 import FIELD_INDEX_V1 as FIELD_INDEX
from dsocr_nvtx.schema.records import COST_FIELDS
from dsocr_nvtx.schema.tables import NVTX, PAYLOAD

_PLACED = pa.schema([item for item in NVTX if item.type != PAYLOAD])
"""NVTX without payloads, which are costs by now."""

_MOST_CLONES = 64
"""A clone of a clone of a clone: longer chains are a circle."""


class Origin(StrEnum):
    """How a range came about; the position is the code."""

    CALL = "call"
    CAPTURED = "captured"
    REPLAYED = "replayed"


@frozen(eq=False)
class Ranges:
    """All ranges of a join: as NVTX rows, their costs, their forest, and the origin of each row.

    Rows of replayed ranges come after those of the report, and so do their positions in the forest; they last no time
    on the host. ``captured_event`` is the event id of the call that a replayed row repeats, -1 for other rows.
    """

    nvtx: pa.Table
    costs: RangeCosts
    forest: Forest
    origin: Ints
    captured_event: Ints


def template_nodes(operations: pa.Table, when: Ints, graph_nodes: pa.Table) -> Ints:
    """Return, per operation, the row of the node it replays in GRAPH_NODES: the one captured, not a clone; else -1.

    A node's id is used again after its graph is gone, so of its rows the last one before ``when`` holds. A clone has
    two rows: that it was made, then of what.
    """
    answer = np.full(len(operations), -1)
    if operations["graph_node_id"].null_count == len(operations):
        return answer
    mine = np.flatnonzero(known(operations, "graph_node_id"))
    if not len(mine) or not len(graph_nodes):
        return answer
    pid, node, time = (numbers(graph_nodes, name) for name in ("pid", "graph_node_id", "time_ns"))
    origin, cloned = numbers(graph_nodes, "original_node_id"), known(graph_nodes, "original_node_id")
    rows = np.lexsort((cloned, time))  # of equal times, what it was cloned from comes last
    op_pid, op_node = numbers(operations, "pid")[mine], numbers(operations, "graph_node_id")[mine]
    found = _row_before(pid, node, time, rows, op_pid, op_node, when[mine])
    for _ in range(_MOST_CLONES):
        up = np.flatnonzero((found >= 0) & cloned[found])
        if not len(up):
            answer[mine] = found
            return answer
        at = found[up]
        found[up] = _row_before(pid, node, time, rows, pid[at], origin[at], time[at])
    found[(found >= 0) & cloned[found]] = -1
    answer[mine] = found
    return answer


def _row_before(pid: Ints, node: Ints, time: Ints, rows: Ints, of_pid: Ints, of_node: Ints, when: Ints) -> Ints:
    count = len(rows)
    key, _ = groups(np.concatenate([pid[rows], of_pid]), np.concatenate([node[rows], of_node]))
    last = latest(key[:count], time[rows], key[count:], when)
    return np.where(last >= 0, rows[last], -1)


def captured_ranges(ranges: Forest, nvtx: pa.Table, windows: Captures) -> Ints:
    """Return, per position, the capture in whose window the range lies whole, or -1."""
    pid, tid = numbers(nvtx, "pid")[ranges.order], numbers(nvtx, "tid")[ranges.order]
    found = windows.of(pid, tid, ranges.start)
    return np.where((found >= 0) & (windows.end[found] >= ranges.end), found, -1) if len(windows.end) else found


def replay(
    trace: Trace, announced: Announced, costs: RangeCosts, ranges: Forest, found: Attribution, within: Ints
) -> tuple[Ranges, Attribution]:
    """Return the ranges with those of every replay beside them, and every operation with the range it belongs to.

    ``within`` says which ranges were captured (`captured_ranges`).
    Operations of a graph whose nodes the trace did not see made, or made outside ranges, stay with the range that
    launched the graph.
    """
    origin = np.zeros(len(trace.nvtx), np.int64)
    origin[ranges.order[within >= 0]] = list(Origin).index(Origin.CAPTURED)
    plain = Ranges(trace.nvtx, costs, ranges, origin, np.full(len(trace.nvtx), -1))
    if not (within >= 0).any():
        return plain, found
    called = numbers(trace.launches, "start_ns")
    when = np.where(found.call >= 0, called[found.call], numbers(trace.operations, "start_ns"))
    template = template_nodes(trace.operations, when, trace.graph_nodes)
    home = _homes(trace.graph_nodes, template, ranges)
    mine = np.flatnonzero((home >= 0) & (found.call >= 0))
    mine = mine[within[home[mine]] >= 0]
    return _extended(trace, announced, plain, found, within, mine, home[mine])


def _homes(graph_nodes: pa.Table, template: Ints, ranges: Forest) -> Ints:
    """Return, per operation, the position of the innermost range open when its node was captured, or -1."""
    answer = np.full(len(template), -1)
    pid, tid, time = (numbers(graph_nodes, name) for name in ("pid", "tid", "time_ns"))
    rows = np.flatnonzero(template >= 0)
    node = template[rows]
    for thread in ranges.spans:
        mine = np.flatnonzero((pid[node] == thread[0]) & (tid[node] == thread[1]))
        answer[rows[mine]] = ranges.innermost(thread, time[node[mine]], closed=True)
    return answer


def _extended(
    trace: Trace, announced: Announced, plain: Ranges, found: Attribution, within: Ints, mine: Ints, home: Ints
) -> tuple[Ranges, Attribution]:
    """Make a range for each (launch, captured range) of the captures that launches replay."""
    number, first = groups(found.call[mine], within[home])
    call, window = found.call[mine[first]], within[home[first]]
    around = found.owner[mine[first]]
    size = np.bincount(within[within >= 0], minlength=int(within.max(initial=-1)) + 1)
    by_window = np.flatnonzero(within >= 0)[np.argsort(within[within >= 0], kind="stable")]
    begins = np.cumsum(size) - size
    replay_of = np.repeat(np.arange(len(call)), size[window])
    place = np.arange(len(replay_of)) - np.repeat(np.cumsum(size[window]) - size[window], size[window])
    position = by_window[begins[window[replay_of]] + place]
    base, rank = len(plain.forest.order), np.full(len(within), -1)
    rank[by_window] = np.arange(len(by_window)) - begins[within[by_window]]
    offset = base + np.cumsum(size[window]) - size[window]
    parent = plain.forest.parent[position]
    inside = (parent >= 0) & (within[parent] == window[replay_of])
    parent = np.where(inside, offset[replay_of] + rank[parent], around[replay_of])
    made = _Made(call[replay_of], position, around[replay_of], parent)
    owner = found.owner.astype(np.int64)
    owner[mine] = offset[number] + rank[home]
    bucket = found.bucket.copy()
    bucket[mine] = list(Bucket).index(Bucket.ATTRIBUTED)
    return _with_rows(trace, announced, plain, made), Attribution(found.call, owner, bucket)


@frozen(eq=False)
class _Made:
    """Ranges of replays: launching call, captured range, range around the launch (-1), parent."""

    call: Places
    captured: Ints
    around: Places
    parent: Ints


def _with_rows(trace: Trace, announced: Announced, plain: Ranges, made: _Made) -> Ranges:
    forest, count = plain.forest, len(plain.nvtx)
    source = forest.order[made.captured]
    around = np.where(made.around >= 0, forest.order[made.around], source)
    rows = _rows(trace, plain.nvtx, made, source, around)
    values, origin = plain.costs.values, plain.costs.source.copy()
    replayed, replayed_source = _costs(announced, plain.costs, rows, source, numbers(plain.nvtx, "start_ns")[source])
    replayed[:, FIELD_INDEX["step"]] = values[around, FIELD_INDEX["step"]]
    replayed[:, FIELD_INDEX["event_id"]] = -1 - count - np.arange(len(source))
    captured = plain.origin == list(Origin).index(Origin.CAPTURED)
    for name in (*COST_FIELDS, "own_activation_bytes"):
        values[captured, FIELD_INDEX[name]] = 0
    start = numbers(rows, "start_ns")
    extended = Forest(
        np.concatenate([forest.order, count + np.arange(len(source))]),
        np.concatenate([forest.start, start]),
        np.concatenate([forest.end, start]),
        np.concatenate([forest.parent, made.parent]),
        forest.spans,
    )
    return Ranges(
        pa.concat_tables([plain.nvtx.select(_PLACED.names), rows]).unify_dictionaries().combine_chunks(),
        RangeCosts(list(np.concatenate([values, replayed]).T), np.concatenate([origin, replayed_source])),
        extended,
        np.concatenate([plain.origin, np.full(len(source), list(Origin).index(Origin.REPLAYED))]),
        np.concatenate([plain.captured_event, plain.costs.field("event_id")[source]]),
    )


def _rows(trace: Trace, nvtx: pa.Table, made: _Made, source: Ints, around: Ints) -> pa.Table:
    path, paths = coded(nvtx, "path")
    stage, stages = coded(nvtx, "stage")
    start = numbers(trace.launches, "start_ns")[made.call]
    return pa.table(
        {
            "pid": numbers(trace.launches, "pid")[made.call],
            "tid": numbers(trace.launches, "tid")[made.call],
            "start_ns": start,
            "end_ns": start,
            "path": recoded(path[source], paths),
            "stage": recoded(stage[around], stages),
        },
        _PLACED.with_metadata(nvtx.schema.metadata),
    )


def _costs(
    announced: Announced, costs: RangeCosts, rows: pa.Table, source: Ints, captured_at: Ints
) -> tuple[Ints, Ints]:
    """Return (fields, source) of replayed ranges: the last announcement since the capture, else the capture's."""
    last = last_told(announced, rows)
    unknown = costs.source[source] == list(CostSource).index(CostSource.NONE)
    values, since = costs.values[source], last >= 0
    since[since] = (announced.time[last[since]] >= captured_at[since]) | unknown[since]
    values[since] = announced.fields(last[since], grown_since(announced, rows, last)[since])
    return values, np.where(since, list(CostSource).index(CostSource.ANNOUNCEMENT), costs.source[source])
