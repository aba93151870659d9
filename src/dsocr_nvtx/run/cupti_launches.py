"""Who launched what, from CUPTI's records of API calls: LAUNCHES.

Of a driver call that a runtime call made only the runtime call is kept: both are records of one launch.
"""

import os
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from dsocr_nvtx.run.cupti_library import CALLS
from dsocr_nvtx.schema import tables

Records = Mapping[int, np.ndarray]
Clock = Callable[[np.ndarray], np.ndarray]


def launches_of(records: Records, function_name: Callable[[int, int], str], clock: Clock) -> pa.Table:
    """Return LAUNCHES: every recorded call, its times on the ranges' clock."""
    (driver, runtime) = CALLS
    own = ~np.isin(records[driver]["correlation_id"], records[runtime]["correlation_id"])
    parts = [
        _recorded(kind, rows, function_name, clock)
        for kind, rows in ((driver, records[driver][own]), (runtime, records[runtime]))
    ]
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()


def _recorded(kind: int, rows: np.ndarray, function_name: Callable[[int, int], str], clock: Clock) -> pa.Table:
    unique, code = np.unique(rows["cbid"], return_inverse=True)
    names = dictionary(code, [function_name(kind, int(one)) for one in unique])
    return _table(rows, clock(rows["start"]), clock(rows["end"]), names)


def _table(rows: np.ndarray, start: np.ndarray, end: np.ndarray, name: pa.DictionaryArray) -> pa.Table:
    columns = {
        "pid": np.full(len(rows), os.getpid()),
        "tid": rows["thread_id"].astype(np.int64),
        "start_ns": start,
        "end_ns": end,
        "correlation_id": rows["correlation_id"].astype(np.int64),
        "name": name,
    }
    return tables.conform(columns, tables.LAUNCHES)


def dictionary(codes: np.ndarray, texts: list[str]) -> pa.DictionaryArray:
    """Return a column of texts by their codes."""
    return pa.DictionaryArray.from_arrays(pa.array(codes.reshape(-1), pa.int32()), pa.array(texts, pa.string()))
