"""Each GPU operation to the hooked call that launched it, or to a named bucket that says why it has none.

An operation belongs to the innermost range that was open on the launching thread when the API call was made; launch
time decides, not execution time. (Process, correlation id) finds the call: correlation ids repeat across processes.
"""

from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.ingest.words import distinct
from dsocr_nvtx.join.columns import (
    Ints,
    Places,
    as_they_stand,
    blocks,
    groups,
    known,
    no_places,
    numbers,
    rows_of,
    sorting,
    values_at,
)
from dsocr_nvtx.join.nesting import Forest

_CORRELATIONS = 0xFFFFFFFF


class Bucket(StrEnum):
    """Where an operation went; the position is the code."""

    ATTRIBUTED = "attributed"
    OUTSIDE = "outside"
    OTHER_THREAD = "other_thread"
    NO_RUNTIME_RECORD = "no_runtime_record"
    GRAPH_BEFORE_TRACE = "graph_before_trace"


@frozen(eq=False)
class Attribution:
    """Per operation: its API call's row in LAUNCHES (-1: none), its range's position in the forest (-1), its bucket.

    ``caller`` is, per API call, the position of the innermost range that was open on its thread when it was made.
    """

    caller: Places
    call: Places
    owner: Places
    bucket: npt.NDArray[np.int8]


def attribute(operations: pa.Table, launches: pa.Table, graph_nodes: pa.Table, ranges: Forest) -> Attribution:
    """Attribute every operation once. Replayed graph nodes belong to the range in which the graph was launched."""
    call = match_calls(operations, launches)
    pid, time = (numbers(launches, name) for name in ("pid", "start_ns"))
    caller = _callers(launches, ranges)
    owner = np.where(call >= 0, values_at(caller, call), -1)
    bucket = np.full(len(call), _code(Bucket.ATTRIBUTED), np.int8)
    bucket[owner < 0] = _code(Bucket.OUTSIDE)
    bucket[call < 0] = _code(Bucket.NO_RUNTIME_RECORD)
    outside = np.flatnonzero(bucket == _code(Bucket.OUTSIDE))
    bucket[outside[_inside_other(pid[call[outside]], time[call[outside]], ranges)]] = _code(Bucket.OTHER_THREAD)
    bucket[(owner < 0) & _unseen_nodes(operations, graph_nodes)] = _code(Bucket.GRAPH_BEFORE_TRACE)
    return Attribution(caller, call, owner, bucket)


def _callers(launches: pa.Table, ranges: Forest) -> Places:
    """Return the position of the innermost range that was open when each call was made, or -1."""
    pid, tid, time = (numbers(launches, name) for name in ("pid", "tid", "start_ns"))
    number, first = groups(pid, tid)
    threads = list(zip(pid[first].tolist(), tid[first].tolist(), strict=True))
    caller = no_places(len(time), len(ranges.start))
    for part in blocks(len(time)):
        for one in distinct(number[part])[0]:
            if threads[one] in ranges.spans:
                mine = number[part] == one
                caller[part][mine] = ranges.innermost(threads[one], time[part][mine], closed=True)
    return caller


def _code(bucket: Bucket) -> int:
    return list(Bucket).index(bucket)


def match_calls(operations: pa.Table, launches: pa.Table) -> Places:
    """Return the row of each operation's API call; of several with one id, the first made; -1 where there is none."""
    order = sorting(numbers(launches, "start_ns"))
    made, asked = _correlations(launches)[order], _correlations(operations)
    if made.dtype != asked.dtype:  # what one can hold, the other need not
        made, asked = made.astype(np.int64), asked.astype(np.int64)
    found = rows_of(numbers(launches, "pid")[order], made, numbers(operations, "pid"), asked)
    if operations["correlation_id"].null_count:
        found[~known(operations, "correlation_id")] = -1
    if isinstance(order, slice):
        return found
    return np.where(found >= 0, order[found], -1).astype(found.dtype)


def _correlations(table: pa.Table) -> Places:
    values = as_they_stand(table, "correlation_id")
    # They take 32 bits in CUPTI's records, and mostly are no more here either.
    narrow = not len(values) or (int(values.min()) >= 0 and int(values.max()) <= _CORRELATIONS)
    return values if narrow else values.astype(np.int64) & _CORRELATIONS


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
