"""Who launched what, from CUPTI's records of API calls: LAUNCHES, with those that were not recorded put between others.

CUPTI numbers all calls of a process one after the other, and an operation bears the number of the call that launched
it. A call of the driver's that was not recorded therefore lies between two that were.
"""

import os
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from dsocr_nvtx.run.cupti_library import CALLS, EDGE, OPERATIONS
from dsocr_nvtx.schema import tables

Records = Mapping[int, np.ndarray]
Clock = Callable[[np.ndarray], np.ndarray]

UNRECORDED = "a launch through the driver, not recorded"
"""The name of a launch that lies somewhere between two recorded calls; it is written as one instant."""


def launches_of(
    records: Records, function_name: Callable[[int, int], str], clock: Clock, ends: int | None
) -> tuple[pa.Table, str]:
    """Return LAUNCHES, and in one line what they lack, or nothing.

    Of a driver call that a runtime call made only the runtime call is kept, and of the calls that mark where ranges
    begin and end none. ``ends`` is how many marks there should be, the driver's calls not being recorded; None where
    they were. With fewer marks nobody could tell in which range an unrecorded call lay, and it is left out.
    """
    (driver, runtime) = CALLS
    own = ~np.isin(records[driver]["correlation_id"], records[runtime]["correlation_id"])
    calls, marks = records[runtime], _marks(records[runtime], function_name)
    parts = [
        _recorded(kind, rows, function_name, clock)
        for kind, rows in ((driver, records[driver][own]), (runtime, calls[~marks]))
    ]
    note = ""
    if ends is not None:
        told = calls if marks.sum() >= ends else calls[:0]
        between, unplaced = _between(told, _unrecorded(records), clock)
        parts.append(between)
        reason = "" if len(told) == len(calls) else f"; {marks.sum()} of {ends} ends of ranges were recorded"
        note = f"{unplaced} operations have no range: who launched them was not recorded{reason}" if unplaced else ""
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks(), note


def _marks(calls: np.ndarray, function_name: Callable[[int, int], str]) -> np.ndarray:
    (_, runtime) = CALLS
    found: np.ndarray = np.isin(
        calls["cbid"], [one for one in np.unique(calls["cbid"]) if function_name(runtime, int(one)).startswith(EDGE)]
    )
    return found


def _recorded(kind: int, rows: np.ndarray, function_name: Callable[[int, int], str], clock: Clock) -> pa.Table:
    unique, code = np.unique(rows["cbid"], return_inverse=True)
    names = dictionary(code, [function_name(kind, int(one)) for one in unique])
    return _table(rows, clock(rows["start"]), clock(rows["end"]), names)


def _unrecorded(records: Records) -> np.ndarray:
    """Return correlation id and start of the first operation of every call that was not recorded, in their order."""
    fields = ["correlation_id", "start"]
    made = np.concatenate([records[kind][fields].astype([(f, "<u8") for f in fields]) for kind in OPERATIONS])
    made = np.sort(made, order=fields)
    _, first = np.unique(made["correlation_id"], return_index=True)
    found: np.ndarray = made[first]
    for kind in CALLS:
        found = found[~np.isin(found["correlation_id"], records[kind]["correlation_id"])]
    return found


def _between(calls: np.ndarray, made: np.ndarray, clock: Clock) -> tuple[pa.Table, int]:
    """Return LAUNCHES of what no recorded call made, each half-way between the calls around it, and how many have none.

    Where those two calls are not of one thread, it is not known which of them launched.
    """
    calls = calls[np.argsort(calls["correlation_id"], kind="stable")]
    after = np.searchsorted(calls["correlation_id"], made["correlation_id"])
    inside = (after > 0) & (after < len(calls))
    before, following, kept = calls[after[inside] - 1], calls[after[inside]], made[inside]
    latest = np.minimum(following["start"], kept["start"])
    known = (before["thread_id"] == following["thread_id"]) & (before["end"] <= latest)
    first, last = before["end"][known], latest[known]
    instant = clock(first + (last - first) // 2)
    rows = before[known].copy()
    rows["correlation_id"] = kept["correlation_id"][known]
    names = dictionary(np.zeros(len(rows), np.int64), [UNRECORDED])
    return _table(rows, instant, instant, names), len(made) - len(rows)


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
