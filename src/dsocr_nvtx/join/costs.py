"""The cost of every range: from its binary payload, else its JSON, else the last announcement for its module."""

from enum import StrEnum

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.announced import Announced, Told, told_costs
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


def range_costs(nvtx: pa.Table, announced: Announced, where: str) -> RangeCosts:
    """Return what is known of each range's cost; refuse a report whose sources contradict each other.

    Ranges without any cost get zeros, source ``none``, negative event ids that are unique in the table, and a kind of
    ``rest``.
    """
    from_binary, has_binary = _records(nvtx, "payload")
    from_json, has_json = _records(nvtx, "json")
    told = told_costs(announced, nvtx)
    both = np.flatnonzero(has_binary & has_json)
    _agree(from_binary[both], from_json[both] if len(both) else from_binary[both], both, nvtx, where)
    for values, has in ((from_binary, has_binary), (from_json, has_json & ~has_binary)):
        both = np.flatnonzero(has & told.found)
        for at in range(0, len(both), _BLOCK):
            rows = both[at : at + _BLOCK]
            _agree(values[rows], told.fields(rows), rows, nvtx, where)
    values = from_binary if has_binary.all() else _filled(nvtx, told, from_binary, has_binary, from_json, has_json)
    source = np.select([has_binary, has_json, told.found], range(3), list(CostSource).index(CostSource.NONE))
    return RangeCosts(values, source.astype(np.int64))


def _records(nvtx: pa.Table, column: str) -> tuple[Ints, Mask]:
    present = known(nvtx, column)
    records = np.frombuffer(joined_bytes(nvtx, column), "<i8").reshape(-1, len(PAYLOAD_FIELDS))
    if len(records) == len(nvtx):
        return records, present
    values = np.zeros((len(nvtx) if len(records) else 0, len(PAYLOAD_FIELDS)), np.int64)
    values[present[: len(values)]] = records
    return values, present


def _filled(nvtx: pa.Table, told: Told, from_binary: Ints, has_binary: Mask, from_json: Ints, has_json: Mask) -> Ints:
    """Return fields from whatever has them; stand-ins for the rest: event id and step as far as they are told."""
    values = np.zeros((len(nvtx), len(PAYLOAD_FIELDS)), np.int64)
    values[:, _EVENT] = np.where(told.event >= 0, told.event, -1 - np.arange(len(nvtx)))
    values[:, _STEP] = np.maximum(told.step, 0)
    values[:, FIELD_INDEX["layer"]] = -1
    values[:, FIELD_INDEX["kind"]] = -1
    rows = np.flatnonzero(told.found)
    values[rows] = told.fields(rows)
    if has_json.any():
        values[has_json] = from_json[has_json]
    if has_binary.any():
        values[has_binary] = from_binary[has_binary]
    return values


_BLOCK = 1 << 13
"""Ranges compared at a time: few enough that their fields stay in a cache."""


def _agree(one: Ints, other: Ints, rows: Ints, nvtx: pa.Table, where: str) -> None:
    """Refuse fields of the same ranges, [rows, fields], that differ."""
    if (one == other).all():
        return
    at, column = np.argwhere(one != other)[0].tolist()
    name, path = PAYLOAD_FIELDS[column], nvtx["path"][int(rows[at])].as_py()
    found = f"two costs for one range: {name} of {path} is {one[at, column]} and {other[at, column]}"
    raise Refused(where, found, "the report was damaged or altered; export it again from the .nsys-rep")
