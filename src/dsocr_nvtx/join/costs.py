"""The cost of every range: from its binary payload, else its JSON, else the last announcement for its module.

Announcements are made when a module's cost changes, so the last one for the same module and stage on the same thread
holds. Each carries the event id of the next range, so ids of ranges without a payload are counted on from there.
"""

from enum import StrEnum

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.columns import Ints, coded, known, numbers
from dsocr_nvtx.schema.payload import FIELD_INDEX, PAYLOAD_FIELDS, parse_announcement
from dsocr_nvtx.schema.records import Stage

_EVENT, _STEP = FIELD_INDEX["event_id"], FIELD_INDEX["step"]
_PER_CALL = (_EVENT, _STEP)


class CostSource(StrEnum):
    """Where a range's cost came from; the position is the code."""

    BINARY = "binary"
    JSON = "json"
    ANNOUNCEMENT = "announcement"
    NONE = "none"


@frozen(eq=False)
class RangeCosts:
    """One row per range: ``values`` holds `PAYLOAD_FIELDS` as columns, ``source`` a `CostSource` code."""

    values: Ints
    source: Ints

    def field(self, name: str) -> Ints:
        """Return one payload field of all ranges."""
        return self.values[:, FIELD_INDEX[name]]


@frozen(eq=False)
class _Announced:
    thread: Ints
    time: Ints
    path: Ints
    stage: Ints
    values: Ints


def range_costs(nvtx: pa.Table, announcements: pa.Table, where: str) -> RangeCosts:
    """Return what is known of each range's cost; refuse a report whose sources contradict each other.

    Ranges without any cost get zeros, source ``none``, negative event ids that are unique in the table, and a kind of
    ``rest``.
    """
    from_binary, has_binary = _records(nvtx, "payload")
    from_json, has_json = _records(nvtx, "json")
    told, has_told = _from_announcements(nvtx, announcements)
    _agree(from_binary, from_json, has_binary & has_json, nvtx, where)
    _agree(from_binary, told, has_binary & has_told, nvtx, where)
    _agree(from_json, told, has_json & has_told & ~has_binary, nvtx, where)
    values = np.where(has_told[:, None], told, _unknown(nvtx, told))
    values[has_json] = from_json[has_json]
    values[has_binary] = from_binary[has_binary]
    source = np.select([has_binary, has_json, has_told], range(3), list(CostSource).index(CostSource.NONE))
    return RangeCosts(values, source.astype(np.int64))


def _records(nvtx: pa.Table, column: str) -> tuple[Ints, np.ndarray]:
    present = known(nvtx, column)
    values = np.zeros((len(nvtx), len(PAYLOAD_FIELDS)), np.int64)
    packed = b"".join(nvtx[column].drop_null().to_pylist())
    values[present] = np.frombuffer(packed, "<i8").reshape(-1, len(PAYLOAD_FIELDS))
    return values, present


def _unknown(nvtx: pa.Table, told: Ints) -> Ints:
    """Return stand-ins: event id and step where the thread's announcements give them, else unique negative ids."""
    values = np.zeros((len(nvtx), len(PAYLOAD_FIELDS)), np.int64)
    values[:, _EVENT] = np.where(told[:, _EVENT] >= 0, told[:, _EVENT], -1 - np.arange(len(nvtx)))
    values[:, _STEP] = np.maximum(told[:, _STEP], 0)
    values[:, FIELD_INDEX["layer"]] = -1
    values[:, FIELD_INDEX["kind"]] = -1
    return values


def _agree(one: Ints, other: Ints, both: np.ndarray, nvtx: pa.Table, where: str) -> None:
    differing = np.argwhere((one != other) & both[:, None])
    if len(differing):
        row, column = (int(i) for i in differing[0])
        name, path = PAYLOAD_FIELDS[column], nvtx["path"][row].as_py()
        found = f"two costs for one range: {name} of {path} is {one[row, column]} and {other[row, column]}"
        raise Refused(where, found, "the report was damaged or altered; export it again from the .nsys-rep")


def _parse(announcements: pa.Table, threads: dict[tuple[int, int], int], paths: dict[str, int]) -> _Announced:
    rows = []
    texts, times = announcements["text"].to_pylist(), numbers(announcements, "time_ns")
    pids, tids = numbers(announcements, "pid"), numbers(announcements, "tid")
    for text, time, pid, tid in zip(texts, times, pids, tids, strict=True):
        parsed = parse_announcement(text)
        if parsed is not None and (int(pid), int(tid)) in threads:
            path, values = parsed
            rows.append((threads[int(pid), int(tid)], int(time), paths.get(path, -1), *values))
    table = np.array(rows, np.int64).reshape(len(rows), 3 + len(PAYLOAD_FIELDS))
    table = table[np.lexsort((table[:, 3 + _EVENT], table[:, 1], table[:, 0]))]
    stage = table[:, 3 + FIELD_INDEX["stage"]]
    return _Announced(table[:, 0], table[:, 1], table[:, 2], stage, table[:, 3:])


def _from_announcements(nvtx: pa.Table, announcements: pa.Table) -> tuple[Ints, np.ndarray]:
    """Return (values, whether a cost was announced); event id and step are -1 where no announcement tells them."""
    path_codes, path_words = coded(nvtx, "path")
    stage_codes, stage_words = coded(nvtx, "stage")
    stages = np.array([list(Stage).index(Stage(word)) for word in stage_words], np.int64)[stage_codes]
    pid, tid, start = (numbers(nvtx, name) for name in ("pid", "tid", "start_ns"))
    threads: dict[tuple[int, int], int] = {}
    thread = np.array([threads.setdefault(k, len(threads)) for k in zip(pid.tolist(), tid.tolist(), strict=True)])
    thread = thread.astype(np.int64)
    told = _parse(announcements, threads, {word: code for code, word in enumerate(path_words)})
    width = max(len(path_words), 1)
    module = (path_codes + 1) * len(Stage) + stages + thread * (width + 1) * len(Stage)
    told_module = (told.path + 1) * len(Stage) + told.stage + told.thread * (width + 1) * len(Stage)
    last = _latest(told_module, told.time, module, start)
    values = np.full((len(nvtx), len(PAYLOAD_FIELDS)), -1)
    values[last >= 0] = told.values[last[last >= 0]]
    values[:, _STEP] = _steps(told, thread, stages, start)
    values[:, _EVENT] = _event_ids(told, thread, start, numbers(nvtx, "end_ns"))
    return values, (last >= 0) & (values[:, _EVENT] >= 0)


def _latest(key: Ints, time: Ints, wanted_key: Ints, wanted_time: Ints) -> Ints:
    """Return, per wanted (key, time), the position of the last entry of that key not after that time, or -1."""
    keys, times = np.concatenate([key, wanted_key]), np.concatenate([time, wanted_time])
    asks = np.concatenate([np.zeros(len(key), np.int64), np.ones(len(wanted_key), np.int64)])
    order = np.lexsort((np.arange(len(keys)), asks, times, keys))
    place = np.where(asks[order] == 0, np.arange(len(order)), -1)
    last = np.maximum.accumulate(place)
    found = np.where((last >= 0) & (keys[order[last]] == keys[order]), order[last], -1)
    answer = np.full(len(keys), -1)
    answer[order] = found
    return answer[len(key) :]


def _steps(told: _Announced, thread: Ints, stage: Ints, start: Ints) -> Ints:
    last = _latest(told.thread * len(Stage) + told.stage, told.time, thread * len(Stage) + stage, start)
    return np.where(last >= 0, told.values[last, _STEP] if len(told.values) else -1, -1)


def _event_ids(told: _Announced, thread: Ints, start: Ints, end: Ints) -> Ints:
    """Count on from the last announcement on the thread: it carries the id of the range pushed next."""
    order = np.lexsort((-end, start, thread))
    ordinal = np.empty(len(order), np.int64)
    ordinal[order] = np.arange(len(order))
    # How many ranges of the thread were pushed before each announcement, on the same count.
    last = _latest(told.thread, told.time, thread, start)
    earlier = _latest(thread[order], start[order], told.thread, told.time - 1)
    begins = np.searchsorted(thread[order], told.thread, side="left")
    pushed = np.where(earlier >= 0, earlier + 1, begins)
    if not len(told.values):
        return np.full(len(order), -1)
    return np.where(last >= 0, told.values[last, _EVENT] + ordinal - pushed[last], -1)
