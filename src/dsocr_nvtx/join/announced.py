"""Costs that were announced, and the one that holds for a call.

Announcements are made when a module's cost changes, so the last one for the same module and stage on the same thread
holds. Each carries the event id of the next range, so ids of ranges without a payload are counted on from there.
One that says how it grows holds while the KV cache does: the model's own announcements say how long the cache is.
"""

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.ingest.source import Mask, whole
from dsocr_nvtx.join.columns import Ints, coded, falling, groups, known, latest, numbers, sorting
from dsocr_nvtx.schema.payload import READ_FIELDS, Flag
from dsocr_nvtx.schema.records import Stage
from dsocr_nvtx.schema.values import values_of

_EVENT, _STEP, _STAGE, _FLAGS, _SEQUENCES, _KEYS, _VERSION = (
    READ_FIELDS.index(name) for name in ("event_id", "step", "stage", "flags", "sequences", "keys", "version")
)
_MODEL = "model"
"""The path of the range around a forward: its announcements say how long the cache is."""


@frozen(eq=False)
class Announced:
    """Announcements by (thread, time): place, module path (a code of ``words``) and the payload's fields.

    ``growth`` is the row of ``increments`` that says what one more key in every sequence adds to each field, or -1.
    """

    pid: Ints
    tid: Ints
    time: Ints
    path: Ints
    words: list[str]
    values: Ints
    growth: Ints
    increments: Ints

    def fields(self, rows: Ints, more: Ints) -> Ints:
        """Return the fields that some announcements tell of where every sequence has so many keys more."""
        values: Ints = self.values[rows]
        grown = np.flatnonzero(more)
        values[grown] += self.increments[self.growth[rows[grown]]] * more[grown, None]
        return values


def read_announced(costs: pa.Table) -> Announced:
    """Put a COSTS table in order."""
    values, increments = _fields(costs, "values"), _fields(costs, "increments")
    grows = known(costs, "increments")
    growth = np.where(grows, np.cumsum(grows) - 1, -1)
    pid, tid, time = (numbers(costs, name) for name in ("pid", "tid", "time_ns"))
    path, words = coded(costs, "path")
    order = sorting(pid, tid, time, values[:, _EVENT])
    pid, tid, time, path, growth = (column[order] for column in (pid, tid, time, path, growth))
    return Announced(pid, tid, time, path, words, values[order], growth, increments)


def _fields(costs: pa.Table, name: str) -> Ints:
    """Return the fields of the rows that have any, [rows, fields]."""
    column = whole(costs[name]).drop_null()
    return np.column_stack([values_of(column.field(field)) for field in READ_FIELDS]).astype(np.int64, copy=False)


@frozen(eq=False)
class Told:
    """What announcements say of ranges: which announcement holds (-1: none), and step and event id (-1: not told).

    ``more``: by how many keys the cache has grown since that announcement. ``found`` says where a cost is told: an
    announcement that holds, and an event id.
    """

    announced: Announced
    last: Ints
    more: Ints
    step: Ints
    event: Ints

    @property
    def found(self) -> Mask:
        """Where a cost is told."""
        return (self.last >= 0) & (self.event >= 0)

    def fields(self, rows: Ints) -> Ints:
        """Return `READ_FIELDS` of some of the ranges that are told, [rows, fields]."""
        found = self.announced.fields(self.last[rows], self.more[rows])
        found[:, _STEP], found[:, _EVENT] = self.step[rows], self.event[rows]
        return found


def told_costs(announced: Announced, nvtx: pa.Table) -> Told:
    """Return, per range, the last announcement for its thread, path and stage not after its start."""
    last = last_told(announced, nvtx)
    more = grown_since(announced, nvtx, last)
    return Told(announced, last, more, _told_steps(announced, nvtx), _told_events(announced, nvtx))


def last_told(announced: Announced, nvtx: pa.Table) -> Ints:
    """Return, per range, the position of that announcement, or -1."""
    return _last_of(announced, nvtx, *coded(nvtx, "path"))


def grown_since(announced: Announced, nvtx: pa.Table, last: Ints) -> Ints:
    """Return, per range, how many keys each sequence has more than its last announcement says, if that one grows."""
    more = np.zeros(len(last), np.int64)
    if not len(announced.increments):
        return more
    grows = np.flatnonzero((last >= 0) & (announced.growth[last] >= 0))
    model = _last_of(announced, nvtx, np.zeros(len(nvtx), np.int64), [_MODEL])[grows]
    held, now = announced.values[last[grows]], announced.values[model]
    told = (model >= 0) & (now[:, _FLAGS] & Flag.UNKNOWN == 0)
    more[grows] = np.where(told, (now[:, _KEYS] - held[:, _KEYS]) // np.maximum(held[:, _SEQUENCES], 1), 0)
    return more


def _last_of(announced: Announced, nvtx: pa.Table, path: Ints, words: list[str]) -> Ints:
    """Return, per range, the last announcement for its thread and stage and a path: a code of ``words``; or -1."""
    place = {word: code for code, word in enumerate(words)}
    known_path = np.array([place.get(word, -1) for word in announced.words], np.int64)
    stage, thread = _stages(nvtx), _threads(announced, nvtx)
    count = len(announced.time)
    theirs = known_path[announced.path] if count else announced.path
    key = np.concatenate([theirs, path]) * len(Stage) + np.concatenate([announced.values[:, _STAGE], stage])
    key, _ = groups(thread, key)
    return latest(key[:count], announced.time, key[count:], numbers(nvtx, "start_ns"))


def _stages(nvtx: pa.Table) -> Ints:
    codes, words = coded(nvtx, "stage")
    return np.array([list(Stage).index(Stage(word)) for word in words], np.int64)[codes]


def _threads(announced: Announced, nvtx: pa.Table) -> Ints:
    """Return a number per thread: of the announcements, then of the ranges."""
    pid, tid = (np.concatenate([getattr(announced, name), numbers(nvtx, name)]) for name in ("pid", "tid"))
    return groups(pid, tid)[0]


def _told_steps(announced: Announced, nvtx: pa.Table) -> Ints:
    """Return, per range, the step last announced for its thread and stage, or -1."""
    count, thread = len(announced.time), _threads(announced, nvtx) * len(Stage)
    stage = np.concatenate([announced.values[:, _STAGE], _stages(nvtx)])
    key = thread + stage
    last = latest(key[:count], announced.time, key[count:], numbers(nvtx, "start_ns"))
    return np.where(last >= 0, announced.values[last, _STEP] if count else -1, -1)


def _told_events(announced: Announced, nvtx: pa.Table) -> Ints:
    """Return, per range, its event id, counted on from the last announcement on the thread, or -1."""
    count, threads = len(announced.time), _threads(announced, nvtx)
    if not count:
        return np.full(len(nvtx), -1)
    start, end = numbers(nvtx, "start_ns"), numbers(nvtx, "end_ns")
    theirs, thread = threads[:count], threads[count:]
    order = sorting(thread, start, falling(end))
    ordinal = np.arange(len(start))
    if not isinstance(order, slice):
        ordinal[order] = np.arange(len(start))
    # How many ranges of the thread were pushed before each announcement, on the same count.
    last = latest(theirs, announced.time, thread, start)
    earlier = latest(thread[order], start[order], theirs, announced.time - 1)
    begins = np.searchsorted(thread[order], theirs, side="left")
    pushed = np.where(earlier >= 0, earlier + 1, begins)
    return np.where(last >= 0, announced.values[last, _EVENT] + ordinal - pushed[last], -1)
