"""Costs that were announced, and the one that holds for a call.

Announcements are made when a module's cost changes, so the last one for the same module and stage on the same thread
holds. Each carries the event id of the next range, so ids of ranges without a payload are counted on from there.
One that says how it grows holds while the KV cache does: the model's own announcements say how long the cache is.
"""

from functools import cached_property

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


@frozen(eq=False)
class Asking:
    """Ranges of an NVTX table that ask what was announced for them."""

    announced: Announced
    nvtx: pa.Table

    @cached_property
    def stage(self) -> Ints:
        """The place of each range's stage in `Stage`."""
        codes, words = coded(self.nvtx, "stage")
        return np.array([list(Stage).index(Stage(word)) for word in words], np.int64)[codes]

    @cached_property
    def thread(self) -> Ints:
        """A number per thread: of the announcements, then of the ranges."""
        pid, tid = (
            np.concatenate([getattr(self.announced, name), numbers(self.nvtx, name)]) for name in ("pid", "tid")
        )
        return groups(pid, tid)[0]

    def last(self) -> Ints:
        """Return, per range, the last announcement for its thread, path and stage not after its start, or -1."""
        return self._last_of(*coded(self.nvtx, "path"))

    def grown_since(self, last: Ints) -> Ints:
        """Return, per range, how many keys each sequence has more than its last announcement says, if that grows."""
        announced, more = self.announced, np.zeros(len(last), np.int64)
        if not len(announced.increments):
            return more
        grows = np.flatnonzero((last >= 0) & (announced.growth[last] >= 0))
        model = self._last_of(np.zeros(len(last), np.int64), [_MODEL])[grows]
        held, now = announced.values[last[grows]], announced.values[model]
        told = (model >= 0) & (now[:, _FLAGS] & Flag.UNKNOWN == 0)
        more[grows] = np.where(told, (now[:, _KEYS] - held[:, _KEYS]) // np.maximum(held[:, _SEQUENCES], 1), 0)
        return more

    def _last_of(self, path: Ints, words: list[str]) -> Ints:
        """Return, per range, the last announcement for its thread and stage and a path: a code of ``words``; or -1."""
        place = {word: code for code, word in enumerate(words)}
        theirs = np.array([place.get(word, -1) for word in self.announced.words], np.int64)[self.announced.path]
        return self._latest(np.concatenate([theirs, path]))

    def _latest(self, *path: Ints) -> Ints:
        """Return, per range, the last announcement of its thread, stage and, where paths are given, path; or -1."""
        count = len(self.announced.time)
        stage = np.concatenate([self.announced.values[:, _STAGE], self.stage])
        key = groups(self.thread, stage, *path)[0]
        return latest(key[:count], self.announced.time, key[count:], numbers(self.nvtx, "start_ns"))

    def steps(self) -> Ints:
        """Return, per range, the step last announced for its thread and stage, or -1."""
        last = self._latest()
        return np.where(last >= 0, self.announced.values[last, _STEP], -1)

    def events(self) -> Ints:
        """Return, per range, its event id, counted on from the last announcement on the thread, or -1."""
        announced, count = self.announced, len(self.announced.time)
        start, end = numbers(self.nvtx, "start_ns"), numbers(self.nvtx, "end_ns")
        theirs, thread = self.thread[:count], self.thread[count:]
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


def told_costs(announced: Announced, nvtx: pa.Table) -> Told:
    """Return, per range, the last announcement for its thread, path and stage not after its start."""
    if not len(announced.time):
        nothing = np.broadcast_to(np.int64(-1), len(nvtx))
        return Told(announced, nothing, np.zeros(len(nvtx), np.int64), nothing, nothing)
    asking = Asking(announced, nvtx)
    last = asking.last()
    return Told(announced, last, asking.grown_since(last), asking.steps(), asking.events())
