"""Rows of a table of hooked calls by event id, which is unique within a process."""

import numpy as np
import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.columns import Ints, Places, coded, known, numbers, rows_of
from dsocr_nvtx.schema.records import is_call


def rows_of_events(ranges: pa.Table, pid: Ints, event: Ints) -> Places:
    """Return the row of each (process, event id), the first of several, -1 where there is none."""
    return rows_of(_processes(ranges), numbers(ranges, "event_id"), pid, event)


def calls_of(kernels: pa.Table, ranges: pa.Table, where: str) -> Places:
    """Return the row of each operation's hooked call, -1 for one without; refuse a call that the ranges lack."""
    call = rows_of_events(ranges, numbers(kernels, "pid"), numbers(kernels, "event_id"))
    has = known(kernels, "event_id")
    lost = np.flatnonzero(has & (call < 0))
    if len(lost):
        found = f"an operation of call {kernels['event_id'][int(lost[0])]}, which ranges.arrow does not have"
        raise Refused(where, found, "the tables are of different joins; join the report again")
    return np.where(has, call, -1)


def called(ranges: pa.Table) -> Mask:
    """Return which ranges are calls: not steps, nor what is done between calls, which cost nothing by nature."""
    codes, paths = coded(ranges, "path")
    return np.array([is_call(path) for path in paths], bool)[codes]


def parent_rows(ranges: pa.Table, where: str) -> Ints:
    """Return each row's parent row, or -1; refuse two calls of a process with one event id."""
    check_events(ranges, where)
    found = rows_of_events(ranges, _processes(ranges), numbers(ranges, "parent_id"))
    return np.where(known(ranges, "parent_id"), found, -1)


def check_events(ranges: pa.Table, where: str) -> None:
    """Refuse two calls of a process with one event id."""
    pid, event = _processes(ranges), numbers(ranges, "event_id")
    twice = np.flatnonzero(rows_of(pid, event, pid, event) != np.arange(len(ranges)))
    if len(twice):
        found = f"event id {event[twice[0]]} of process {pid[twice[0]]} stands for two calls"
        raise Refused(where, found, "record one run in each process, with the hooks attached once")


def _processes(ranges: pa.Table) -> Ints:
    """Return the process of each row; a run directory's table is of one and does not say which."""
    return numbers(ranges, "pid") if "pid" in ranges.column_names else np.zeros(len(ranges), np.int64)
