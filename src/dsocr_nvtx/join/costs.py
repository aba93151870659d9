"""The cost of every range: from its binary payload, else its JSON, else the last announcement for its module."""

from enum import StrEnum

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.announced import Announced, read_announced, told_costs, told_events, told_steps
from dsocr_nvtx.join.columns import Ints, joined_bytes, known
from dsocr_nvtx.schema.payload import FIELD_INDEX, PAYLOAD_FIELDS

_EVENT, _STEP = FIELD_INDEX["event_id"], FIELD_INDEX["step"]


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


def range_costs(nvtx: pa.Table, announcements: pa.Table, where: str) -> RangeCosts:
    """Return what is known of each range's cost; refuse a report whose sources contradict each other.

    Ranges without any cost get zeros, source ``none``, negative event ids that are unique in the table, and a kind of
    ``rest``.
    """
    from_binary, has_binary = _records(nvtx, "payload")
    from_json, has_json = _records(nvtx, "json")
    told, has_told = _from_announcements(nvtx, read_announced(announcements))
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
    values[present] = np.frombuffer(joined_bytes(nvtx, column), "<i8").reshape(-1, len(PAYLOAD_FIELDS))
    return values, present


def _from_announcements(nvtx: pa.Table, announced: Announced) -> tuple[Ints, np.ndarray]:
    """Return (fields, whether a cost was announced); event id and step are -1 where no announcement tells them."""
    told = told_costs(announced, nvtx)
    told.values[:, _STEP] = told_steps(announced, nvtx)
    told.values[:, _EVENT] = told_events(announced, nvtx)
    return told.values, told.found & (told.values[:, _EVENT] >= 0)


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
