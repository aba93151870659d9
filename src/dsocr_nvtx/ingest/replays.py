"""What a run kept of replayed CUDA graphs, told as hooks tell it to a tool: costs by capture, changes by announcement.

``ranges.arrow`` has a row for every call of every replay, and its captured rows cost nothing. A report has the captured
calls at their costs, and before a launch an announcement of each cost that is not the captured one.
"""

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.source import Ints, Mask
from dsocr_nvtx.schema.payload_v1 import FIELD_INDEX_V1 as FIELD_INDEX
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_FIELDS_V1 as PAYLOAD_FIELDS

_OWN = ("event_id", "step")
"""Fields that tell calls of one cost apart."""


@frozen(eq=False)
class Replays:
    """Of RANGES: the captured row that each row repeats, or -1, and the rows that are to be announced.

    The latter are all calls, captured ones too, of modules whose cost changes between replays: an announcement holds
    until the next one.
    """

    captured: Ints
    changing: Ints

    def events(self, ranges: pa.Table) -> tuple[list[int], list[int]]:
        """Return the event ids of replayed calls, and of the captured calls that they repeat."""
        event, again = ranges["event_id"].to_numpy(), np.flatnonzero(self.captured >= 0)
        return event[again].tolist(), event[self.captured[again]].tolist()


def no_replays(ranges: pa.Table) -> Replays:
    """Return what is known of the replays of RANGES where nobody noted what was captured where."""
    return Replays(np.full(len(ranges), -1), np.zeros(0, np.int64))


def read_replays(ranges: pa.Table, records: Ints, where: str) -> Replays:
    """Return the replays of RANGES, and give captured calls in its records, [rows, fields], the cost of a replay."""
    captured = _captured(ranges, where)
    again = np.flatnonzero(captured >= 0)
    templates, first = np.unique(captured[again], return_index=True)
    changed = np.zeros(len(again), bool)
    for field in (FIELD_INDEX[name] for name in PAYLOAD_FIELDS if name not in _OWN):
        records[templates, field] = records[again[first], field]
        changed |= records[again, field] != records[captured[again], field]
    key = _module(ranges)
    return Replays(captured, np.flatnonzero(np.isin(key, key[again[changed]])))


def _captured(ranges: pa.Table, where: str) -> Ints:
    """Return, per row, the captured row that it repeats, or -1: a launch repeats the capture that ended last before it.

    Calls of a capture, and of a launch, are in one order: that in which they ended when they were captured.
    """
    event, start, end = (ranges[name].to_numpy() for name in ("event_id", "host_start_ns", "host_end_ns"))
    thread, path = ranges["thread_id"].to_numpy(), _codes(ranges, "path")
    captured = np.flatnonzero(_of(ranges, "captured"))
    captured = captured[np.lexsort((-event[captured], end[captured]))]
    again = np.flatnonzero(_of(ranges, "replayed"))
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


def _of(ranges: pa.Table, origin: str) -> Mask:
    column = ranges["origin"].combine_chunks()
    words = column.dictionary.to_pylist()
    found: Mask = column.indices.to_numpy() == (words.index(origin) if origin in words else -1)
    return found


def _codes(ranges: pa.Table, name: str) -> Ints:
    codes: Ints = ranges[name].combine_chunks().indices.to_numpy().astype(np.int64)
    return codes


def _module(ranges: pa.Table) -> Ints:
    """Return a number per row that is equal where thread, stage and path are: where one announcement holds."""
    keys = np.column_stack([ranges["thread_id"].to_numpy(), _codes(ranges, "stage"), _codes(ranges, "path")])
    number: Ints = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    return number
