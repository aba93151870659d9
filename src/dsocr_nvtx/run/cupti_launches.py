"""Who launched what, from CUPTI's records of API calls: LAUNCHES, with those that were not recorded put between others.

CUPTI numbers all calls of a process one after the other, and an operation bears the number of the call that launched
it. A call of the driver's that was not recorded therefore lies between two that were. Which range it lies in is known
where every range makes a call that is recorded at both its ends: an edge.
"""

import os
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from dsocr_nvtx.run.cupti_library import CALLS, EDGE, OPERATIONS
from dsocr_nvtx.schema import tables

Records = Mapping[int, np.ndarray]
Clock = Callable[[np.ndarray], np.ndarray]

UNRECORDED = "a launch that was not recorded"
"""The name of a launch that lies somewhere between two recorded calls; it is written as one instant."""


def launches_of(
    records: Records, function_name: Callable[[int, int], str], clock: Clock, ends: int | None
) -> tuple[pa.Table, str]:
    """Return LAUNCHES, and in one line what they lack, or nothing.

    Of a driver call that a runtime call made only the runtime call is kept, and of the ranges' edges none. ``ends`` is
    how many ends the ranges have, the driver's calls not being recorded; None where they were. With fewer calls of the
    edges' kind than ends nobody could tell in which range an unrecorded call lay, and all of them are left out.
    """
    (driver, runtime) = CALLS
    own = ~np.isin(records[driver]["correlation_id"], records[runtime]["correlation_id"])
    calls, edges = records[runtime], _edges(records[runtime], function_name)
    parts = [
        _recorded(kind, rows, function_name, clock)
        for kind, rows in ((driver, records[driver][own]), (runtime, calls[~edges]))
    ]
    note = ""
    if ends is not None:
        missing, whole = _unrecorded(records), edges.sum() >= ends
        between = _between(calls if whole else calls[:0], missing, clock)
        parts.append(between)
        note = _note(len(between), missing.shape[1], "" if whole else f"; {edges.sum()} of {ends} edges were recorded")
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks(), note


def _note(placed: int, missing: int, reason: str) -> str:
    told = f"{placed} launches through the driver are written as instants, so idle time in them counts as the host's"
    lost = f"{missing - placed} operations have no range: who launched them was not recorded{reason}"
    return "; ".join(text for text, holds in ((told, placed), (lost, missing > placed)) if holds)


def _edges(calls: np.ndarray, function_name: Callable[[int, int], str]) -> np.ndarray:
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
    number, start = (
        np.concatenate([records[kind][name] for kind in OPERATIONS]).astype(np.int64)
        for name in ("correlation_id", "start")
    )
    missing = ~np.isin(number, np.concatenate([records[kind]["correlation_id"] for kind in CALLS]))
    number, start = number[missing], start[missing]
    order = np.lexsort((start, number))
    number, first = np.unique(number[order], return_index=True)
    return np.stack([number, start[order][first]])


def _between(calls: np.ndarray, missing: np.ndarray, clock: Clock) -> pa.Table:
    """Return LAUNCHES of the ``missing`` calls, [(number, start of its operation), calls]: half-way between neighbours.

    A call whose neighbours are not of one thread is left out, as it is not known which of them made it; nor is it known
    of two calls of one thread that a third thread did not launch between them, which takes threads that launch at the
    same time.
    """
    number, start = missing
    calls = calls[np.argsort(calls["correlation_id"], kind="stable")]
    after = np.searchsorted(calls["correlation_id"], number)
    inside = (after > 0) & (after < len(calls))
    number, start, after = number[inside], start[inside], after[inside]
    before, following = calls[after - 1], calls[after]
    first, last = before["end"].astype(np.int64), np.minimum(following["start"].astype(np.int64), start)
    known = (before["thread_id"] == following["thread_id"]) & (first <= last)
    rows, instant = before[known], clock((first + (last - first) // 2)[known])
    rows["correlation_id"] = number[known]
    return _table(rows, instant, instant, dictionary(np.zeros(len(rows), np.int64), [UNRECORDED]))


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
