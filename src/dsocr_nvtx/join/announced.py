"""Costs announced in plain text: all texts parsed at once, and the one that holds for a call found.

Announcements are made when a module's cost changes, so the last one for the same module and stage on the same thread
holds. Each carries the event id of the next range, so ids of ranges without a payload are counted on from there.
One that says how it grows holds while the KV cache does: the model's own announcements say how long the cache is.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from dsocr_nvtx.ingest.source import Mask, whole
from dsocr_nvtx.join.columns import Ints, coded, falling, groups, latest, numbers, sorting, taken
from dsocr_nvtx.schema.payload_v1 import FIELD_INDEX_V1 as FIELD_INDEX
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_FIELDS_V1 as PAYLOAD_FIELDS
from dsocr_nvtx.schema.payload_v1 import WIRE_V1
from dsocr_nvtx.schema.records import Stage
from dsocr_nvtx.schema.values import values_of

_EVENT, _STEP, _STAGE, _KV = (FIELD_INDEX[name] for name in ("event_id", "step", "stage", "kv_len"))
_MODEL = "model"
"""The path of the range around a forward: its announcements say how long the cache is."""


@frozen(eq=False)
class Announced:
    """Announcements by (thread, time): place, module path (a code of ``words``) and the payload's fields.

    ``growth`` is the row of ``increments`` that says what one more key adds to each field, or -1.
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
        """Return the fields that some announcements tell of where the cache holds so many keys more."""
        values: Ints = self.values[rows]
        grown = np.flatnonzero(more)
        values[grown] += self.increments[self.growth[rows[grown]]] * more[grown, None]
        return values


def read_announced(announcements: pa.Table) -> Announced:
    """Parse an ANNOUNCEMENTS table; what is no announcement, or a damaged one, is left out."""
    texts = whole(announcements["text"])
    rows = np.flatnonzero(values_of(pc.starts_with(texts, WIRE_V1.announced)))
    path, words, values = _parse(texts if len(rows) == len(texts) else texts.take(pa.array(rows)))
    good = np.flatnonzero((path >= 0) & (values[:, _STAGE] >= 0) & (values[:, _STAGE] < len(Stage)))
    rows, path, values = (taken(column, good) for column in (rows, path, values))
    grown, their_path, their_words, their_values, increments = _parse_growing(texts)
    growth = np.concatenate([np.full(len(rows), -1), np.arange(len(grown))])
    if len(grown):
        path, rows = np.concatenate([path, their_path + len(words)]), np.concatenate([rows, grown])
        values = np.concatenate([values, their_values])
    pid, tid, time = (numbers(announcements, name)[rows] for name in ("pid", "tid", "time_ns"))
    order = sorting(pid, tid, time, values[:, _EVENT])
    pid, tid, time, path, growth = (column[order] for column in (pid, tid, time, path, growth))
    return Announced(pid, tid, time, path, [*words, *their_words], values[order], growth, increments)


def _parse_growing(texts: pa.Array) -> tuple[Ints, Ints, list[str], Ints, Ints]:
    """Return (row, path code, paths, fields, increments) of the announcements that say how they grow."""
    rows = np.flatnonzero(values_of(pc.starts_with(texts, WIRE_V1.growing)))
    parsed = [WIRE_V1.parse_growth(text) for text in texts.take(pa.array(rows)).to_pylist()]
    found = [one for one in parsed if one is not None]
    words = {path: code for code, path in enumerate(dict.fromkeys(path for path, _, _ in found))}
    values, increments = (
        np.array([one[part] for one in found], np.int64).reshape(len(found), len(PAYLOAD_FIELDS)) for part in (1, 2)
    )
    whole = rows[np.array([one is not None for one in parsed], bool)]
    return whole, np.array([words[path] for path, _, _ in found], np.int64), list(words), values, increments


def _parse(texts: pa.Array) -> tuple[Ints, list[str], Ints]:
    """Return (path code or -1, paths, fields) of texts that begin as announcements do."""
    found = _parse_alike(texts) if len(texts) else None
    if found is not None:
        return found
    parsed = [WIRE_V1.parse(text) for text in texts.to_pylist()]
    words = {path: code for code, path in enumerate(dict.fromkeys(one[0] for one in parsed if one is not None))}
    path = np.array([-1 if one is None else words[one[0]] for one in parsed], np.int64)
    values = [[0] * len(PAYLOAD_FIELDS) if one is None else one[1] for one in parsed]
    return path, list(words), np.array(values, np.int64).reshape(len(parsed), len(PAYLOAD_FIELDS))


_TOGETHER = 1 << 15
"""Texts parsed together: few enough that what is made of them on the way stays small."""


def _parse_alike(texts: pa.Array) -> tuple[Ints, list[str], Ints] | None:
    """Parse texts that are all whole announcements; None where one is not."""
    path, values = np.empty(len(texts), np.int64), np.empty((len(texts), len(PAYLOAD_FIELDS)), np.int64)
    words: dict[str, int] = {}
    for at in range(0, len(texts), _TOGETHER):
        some = slice(at, at + _TOGETHER)
        found = _parse_some(texts[some])
        if found is None:
            return None
        codes, said, values[some] = found
        path[some] = np.array([words.setdefault(word, len(words)) for word in said], np.int64)[codes]
    return path, list(words), values


def _parse_some(texts: pa.Array) -> tuple[Ints, list[str], Ints] | None:
    """Parse texts that are all whole announcements, as a table with spaces between columns; None where one is not."""
    import pyarrow.csv as pv

    together = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    joined = pc.binary_join(together, pa.scalar("\n", pa.string()))[0].as_buffer()
    data = np.frombuffer(joined, np.uint8)
    if np.count_nonzero(data < ord(" ")) != len(texts) - 1:  # a line break of its own, or a tab
        return None
    names = ["prefix", "path", *PAYLOAD_FIELDS]
    kinds = {"prefix": pa.string(), "path": pa.dictionary(pa.int32(), pa.string())}
    try:
        table = pv.read_csv(
            pa.BufferReader(joined),
            pv.ReadOptions(column_names=names),
            pv.ParseOptions(delimiter=" ", quote_char=False),
            pv.ConvertOptions(null_values=[], column_types=kinds | dict.fromkeys(PAYLOAD_FIELDS, pa.int64())),
        )
    except pa.ArrowInvalid:
        return None
    path, words = coded(table, "path")
    if len(table) != len(texts) or "" in words:
        return None
    values = np.empty((len(table), len(PAYLOAD_FIELDS)), np.int64)
    for at, name in enumerate(PAYLOAD_FIELDS):
        values[:, at] = values_of(whole(table[name]))
    return path, words, values


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
        """Return the payload fields of some of the ranges that are told, [rows, fields]."""
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
    """Return, per range, how many keys the cache has more than its last announcement says, where that one grows."""
    more = np.zeros(len(last), np.int64)
    if not len(announced.increments):
        return more
    grows = np.flatnonzero((last >= 0) & (announced.growth[last] >= 0))
    model = _last_of(announced, nvtx, np.zeros(len(nvtx), np.int64), [_MODEL])[grows]
    more[grows] = np.where(model >= 0, announced.values[model, _KV] - announced.values[last[grows], _KV], 0)
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
