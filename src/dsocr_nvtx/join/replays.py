"""Replayed CUDA graphs: each launch of a graph calls again every range that was open when the graph was captured.

A capture is what a thread did between cudaStreamBeginCapture and cudaStreamEndCapture. A replayed operation names its
graph node, a clone of the node that the capture made (through any number of clones); that node's time lies in a range
of the capture. So every launch gets a range of its own for each range of the capture. Where the recorder wrote them out
(REPLAYS), those are they. Else where it is in the network comes from the capture, step and stage from the range around
the launch, cost from the last announcement before the launch, else from the capture. The captured ranges themselves ran
nothing: they keep their host time and cost nothing.
"""

import numpy as np
import pyarrow as pa
from attrs import evolve

from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.announced import Announced
from dsocr_nvtx.join.attribution import Attribution, Bucket
from dsocr_nvtx.join.captures import Captures
from dsocr_nvtx.join.columns import Ints, groups, known, latest, numbers
from dsocr_nvtx.join.costs import RangeCosts
from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.join.ranges import Origin, Ranges, with_replays
from dsocr_nvtx.join.replayed import Replayed, made_replays, recorded_replays

_MOST_CLONES = 64
"""A clone of a clone of a clone: longer chains are a circle."""


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
    if len(trace.replays):
        made, number = recorded_replays(trace, plain, found, within, Replayed(mine, home[mine]))
    else:
        made, number = made_replays(trace, announced, plain, found, within, Replayed(mine, home[mine]))
    owner, bucket = found.owner.astype(np.int64), found.bucket.copy()
    there = np.flatnonzero(number >= 0)
    owner[mine[there]] = len(ranges.order) + number[there]
    bucket[mine[there]] = list(Bucket).index(Bucket.ATTRIBUTED)
    return with_replays(plain, made), evolve(found, owner=owner, bucket=bucket)


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
