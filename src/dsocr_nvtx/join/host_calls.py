"""HOST_CALLS: the CUDA API calls of every step by function, with how long they lasted."""

import numpy as np
import pyarrow as pa

from dsocr_nvtx.join.columns import Places, blocks, coded, groups, numbers, recoded
from dsocr_nvtx.join.ranges import Ranges
from dsocr_nvtx.schema.summaries import HOST_CALLS
from dsocr_nvtx.schema.tables import conform


def host_calls(launches: pa.Table, every: Ranges, caller: Places) -> pa.Table:
    """Return HOST_CALLS of a trace; ``caller`` is the position in the forest of each call's range, or -1."""
    (stage, stages), (name, names) = coded(every.nvtx, "stage"), coded(launches, "name")
    step = np.asarray(every.costs.field("step"), np.int64)
    start, end = numbers(launches, "start_ns"), numbers(launches, "end_ns")
    parts = [np.zeros((6, 0), np.int64)]
    for part in blocks(len(caller)):
        inside, row = caller[part] >= 0, every.forest.order[caller[part]]
        keys = np.where(inside, stage[row], -1), np.where(inside, step[row], -1), name[part]
        group, one = groups(*keys)
        lasted = end[part] - start[part]
        longest = np.zeros(len(one), np.int64)
        np.maximum.at(longest, group, lasted)
        total = np.bincount(group, lasted).astype(np.int64)
        parts.append(np.stack([*(key[one] for key in keys), np.bincount(group), total, longest]))
    *where, part_calls, part_total, part_longest = np.concatenate(parts, axis=1)
    group, one = groups(*where)
    calls, total, longest = np.zeros((3, len(one)), np.int64)
    np.add.at(calls, group, part_calls)
    np.add.at(total, group, part_total)
    np.maximum.at(longest, group, part_longest)
    of_stage, of_step, of_name = (key[one] for key in where)
    columns: dict[str, object] = {
        "stage": recoded(of_stage, stages),
        "step": pa.array(of_step, mask=of_stage < 0),
        "call": recoded(of_name, names),
        "calls": calls, "total_ns": total, "longest_ns": longest,
    }  # fmt: skip
    return conform(columns, HOST_CALLS)
