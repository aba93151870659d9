"""Each GPU operation to the hooked call that launched it, or to a named bucket that says why it has none.

An operation belongs to the innermost range that was open on the launching thread when the API call was made; launch
time decides, not execution time. (Process, correlation id) finds the call: correlation ids repeat across processes.
"""

from enum import StrEnum

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import Ints, groups, known, numbers, rows_of, sorting, taken
from dsocr_nvtx.join.nesting import Forest


class Bucket(StrEnum):
    """Where an operation went; the position is the code."""

    ATTRIBUTED = "attributed"
    OUTSIDE = "outside"
    OTHER_THREAD = "other_thread"
    NO_RUNTIME_RECORD = "no_runtime_record"
    GRAPH_BEFORE_TRACE = "graph_before_trace"


@frozen(eq=False)
class Attribution:
    """Per operation: its API call's row in LAUNCHES (-1: none), its range's position in the forest (-1), its bucket."""

    call: Ints
    owner: Ints
    bucket: Ints


def attribute(operations: pa.Table, launches: pa.Table, graph_nodes: pa.Table, ranges: Forest) -> Attribution:
    """Attribute every operation once. Replayed graph nodes belong to the range in which the graph was launched."""
    call = match_calls(operations, launches)
    pid, tid, time = (numbers(launches, name) for name in ("pid", "tid", "start_ns"))
    owner = np.full(len(call), -1)
    called = np.flatnonzero(call >= 0)
    number, first = groups(pid, tid)
    caller = number[taken(call, called)]
    for one, thread in enumerate(zip(pid[first].tolist(), tid[first].tolist(), strict=True)):
        if thread in ranges.spans:
            mine = called[caller == one]
            owner[mine] = ranges.innermost(thread, time[taken(call, mine)], closed=True)
    bucket = np.where(owner >= 0, _code(Bucket.ATTRIBUTED), _code(Bucket.OUTSIDE))
    bucket[call < 0] = _code(Bucket.NO_RUNTIME_RECORD)
    outside = np.flatnonzero(bucket == _code(Bucket.OUTSIDE))
    bucket[outside[_inside_other(pid[call[outside]], time[call[outside]], ranges)]] = _code(Bucket.OTHER_THREAD)
    bucket[(owner < 0) & _unseen_nodes(operations, graph_nodes)] = _code(Bucket.GRAPH_BEFORE_TRACE)
    return Attribution(call, owner, bucket)


def _code(bucket: Bucket) -> int:
    return list(Bucket).index(bucket)


def match_calls(operations: pa.Table, launches: pa.Table) -> Ints:
    """Return the row of each operation's API call; of several with one id, the first made; -1 where there is none."""
    order = sorting(numbers(launches, "start_ns"))
    made = numbers(launches, "pid")[order], _correlations(launches)[order]
    found = rows_of(*made, numbers(operations, "pid"), _correlations(operations))
    if operations["correlation_id"].null_count:
        found[~known(operations, "correlation_id")] = -1
    return found if isinstance(order, slice) else np.where(found >= 0, order[found], -1)


def _correlations(table: pa.Table) -> Ints:
    return numbers(table, "correlation_id") & 0xFFFFFFFF  # they take 32 bits in CUPTI's records


def _inside_other(pid: Ints, time: Ints, ranges: Forest) -> np.ndarray:
    """Return which instants lie inside a range of any thread of the process."""
    inside = np.zeros(len(pid), bool)
    for thread in ranges.spans:
        mine = np.flatnonzero(pid == thread[0])
        inside[mine] |= ranges.innermost(thread, time[mine], closed=True) >= 0
    return inside


def _unseen_nodes(operations: pa.Table, graph_nodes: pa.Table) -> np.ndarray:
    if operations["graph_node_id"].null_count == len(operations):
        return np.zeros(len(operations), bool)
    node = numbers(operations, "graph_node_id")
    seen = np.isin(node, numbers(graph_nodes, "graph_node_id"))
    return known(operations, "graph_node_id") & ~seen
