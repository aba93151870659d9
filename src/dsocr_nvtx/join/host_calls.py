"""HOST_CALLS: the CUDA API calls of every step by function, with how long they lasted."""

import numpy as np
import pyarrow as pa

from dsocr_nvtx.join.columns import Ints, blocks, coded, groups, numbers, recoded
from dsocr_nvtx.join.ranges import Ranges
from dsocr_nvtx.schema.summaries import HOST_CALLS
from dsocr_nvtx.schema.tables import conform


def host_calls(launches: pa.Table, every: Ranges) -> pa.Table:
    """Return HOST_CALLS of a trace: a call is of the innermost range open on its thread when it was made."""
    (stage, stages), (name, names) = coded(every.nvtx, "stage"), coded(launches, "name")
    step = np.asarray(every.costs.field("step"), np.int64)
    start, end, pid, tid = (numbers(launches, one) for one in ("start_ns", "end_ns", "pid", "tid"))
    thread, first = groups(pid, tid)
    threads = [(int(pid[at]), int(tid[at])) for at in first]
    found: dict[tuple[int, int, int], Ints] = {}
    for part in blocks(len(start)):
        row = _rows(every, threads, thread[part], start[part])
        keys = np.where(row >= 0, stage[row], -1), np.where(row >= 0, step[row], -1), name[part]
        group, one = groups(*keys)
        lasted = end[part] - start[part]
        calls, total = np.bincount(group), np.bincount(group, lasted).astype(np.int64)
        longest = np.zeros(len(one), np.int64)
        np.maximum.at(longest, group, lasted)
        for at, place in enumerate(one.tolist()):
            key = int(keys[0][place]), int(keys[1][place]), int(keys[2][place])
            before = found.get(key, np.zeros(3, np.int64))
            found[key] = np.array([before[0] + calls[at], before[1] + total[at], max(before[2], longest[at])])
    order = sorted(found)
    told = np.array([found[key] for key in order], np.int64).reshape(-1, 3)
    where = np.array(order, np.int64).reshape(-1, 3)
    columns: dict[str, object] = {
        "stage": recoded(where[:, 0], stages),
        "step": pa.array(where[:, 1], mask=where[:, 0] < 0),
        "call": recoded(where[:, 2], names),
        "calls": told[:, 0], "total_ns": told[:, 1], "longest_ns": told[:, 2],
    }  # fmt: skip
    return conform(columns, HOST_CALLS)


def _rows(every: Ranges, threads: list[tuple[int, int]], thread: Ints, time: Ints) -> Ints:
    """Return, per call, the row of its range in the tables of all ranges, or -1."""
    row = np.full(len(time), -1, np.int64)
    for one in np.unique(thread).tolist():
        if threads[one] in every.forest.spans:
            mine = np.flatnonzero(thread == one)
            place = every.forest.innermost(threads[one], time[mine], closed=True)
            row[mine] = np.where(place >= 0, every.forest.order[place], -1)
    return row
