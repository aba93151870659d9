"""What a run kept of replayed CUDA graphs: which captured call each call of a replay repeats.

``ranges.arrow`` has a row for every call of every replay, with the cost of that launch; its captured rows cost nothing.
"""

import numpy as np
import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.source import Ints, Mask, whole
from dsocr_nvtx.schema.values import values_of


def captured_rows(ranges: pa.Table, where: str) -> Ints:
    """Return, per row, the captured row that it repeats, or -1: a launch repeats the capture that ended last before it.

    Calls of a capture, and of a launch, are in one order: that in which they ended when they were captured.
    """
    event, start, end = (values_of(whole(ranges[name])) for name in ("event_id", "host_start_ns", "host_end_ns"))
    thread, path = (values_of(whole(ranges[name])) for name in ("thread_id", "path"))
    captured = np.flatnonzero(of_origin(ranges, "captured"))
    captured = captured[np.lexsort((-event[captured], end[captured]))]
    again = np.flatnonzero(of_origin(ranges, "replayed"))
    again = again[np.lexsort((event[again], thread[again], start[again]))]
    answer = np.full(len(ranges), -1)
    ended = end[captured]
    new = np.flatnonzero((np.diff(start[again]) != 0) | (np.diff(thread[again]) != 0)) + 1
    for launch in np.split(again, new) if len(captured) and len(again) else ():
        before = int(np.searchsorted(ended, start[launch[0]], side="right"))
        mine = captured[max(before - len(launch), 0) : before]
        if before and not np.array_equal(path[mine], path[launch]):
            raise Refused(where, "replayed calls are not those that were captured", "the directory was altered")
        answer[launch] = mine if before else -1
    return answer


def of_origin(ranges: pa.Table, origin: str) -> Mask:
    """Return which rows came about this way; none, where the table is from before graphs were replayed."""
    if "origin" not in ranges.column_names:
        return np.zeros(len(ranges), bool)
    column = whole(ranges["origin"])
    words = column.dictionary.to_pylist()
    return np.asarray(values_of(column) == (words.index(origin) if origin in words else -1), bool)
