"""The cost of every range: from its binary payload, else its JSON, else the last announcement for its module."""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.source import Mask, whole
from dsocr_nvtx.join.announced import Announced, Told, told_costs
from dsocr_nvtx.join.columns import Ints, Places, Rows, known
from dsocr_nvtx.join.events import called
from dsocr_nvtx.schema.payload import READ_FIELDS, Flag
from dsocr_nvtx.schema.records import COST_FIELDS
from dsocr_nvtx.schema.values import values_of

_EVENT, _STEP = READ_FIELDS.index("event_id"), READ_FIELDS.index("step")


class CostSource(StrEnum):
    """Where a range's cost came from; the position is the code."""

    BINARY = "binary"
    JSON = "json"
    ANNOUNCEMENT = "announcement"
    NONE = "none"


@frozen(eq=False)
class RangeCosts:
    """One row per range: ``columns`` holds one for each of `READ_FIELDS`, ``source`` a `CostSource` code."""

    columns: Sequence[Places]
    source: Ints

    def field(self, name: str) -> Ints:
        """Return one payload field of all ranges."""
        return np.asarray(self.columns[READ_FIELDS.index(name)], np.int64)

    @property
    def values(self) -> Ints:
        """The fields of all ranges, [ranges, fields]."""
        return _rows(self.columns, slice(None))


def range_costs(nvtx: pa.Table, announced: Announced, where: str) -> RangeCosts:
    """Return what is known of each range's cost; refuse a report whose sources contradict each other.

    Ranges of which none is told get zeros, flagged as unknown where they are calls, source ``none``, negative event ids
    that are unique in the table, and a kind of ``rest``.
    """
    from_binary, has_binary = _columns(nvtx, "payload")
    from_json, has_json = _columns(nvtx, "json")
    told = told_costs(announced, nvtx)
    both = np.flatnonzero(has_binary & has_json)
    _agree(_rows(from_binary, both), _rows(from_json, both), both, nvtx, where)
    for columns, has in ((from_binary, has_binary), (from_json, has_json & ~has_binary)):
        both = np.flatnonzero(has & told.found)
        for at in range(0, len(both), _BLOCK):
            rows = both[at : at + _BLOCK]
            _agree(_rows(columns, rows), told.fields(rows), rows, nvtx, where)
    source = np.select([has_binary, has_json, told.found], range(3), list(CostSource).index(CostSource.NONE))
    if has_binary.all():
        return RangeCosts(from_binary, source)
    return RangeCosts(list(_filled(nvtx, told, from_binary, has_binary, from_json, has_json).T), source)


def _columns(nvtx: pa.Table, name: str) -> tuple[list[Places], Mask]:
    """Return the fields of a column of payloads, and which rows have any."""
    payloads = whole(nvtx[name])
    return [values_of(payloads.field(field)) for field in READ_FIELDS], known(nvtx, name)


def _rows(columns: Sequence[Places], rows: Rows) -> Ints:
    """Return fields of some rows, [rows, fields]."""
    return np.column_stack([column[rows] for column in columns]).astype(np.int64, copy=False)


def _filled(
    nvtx: pa.Table,
    told: Told,
    from_binary: Sequence[Places],
    has_binary: Mask,
    from_json: Sequence[Places],
    has_json: Mask,
) -> Ints:
    """Return fields from whatever has them; stand-ins for the rest: event id and step as far as they are told."""
    values = np.zeros((len(nvtx), len(READ_FIELDS)), np.int64)
    values[:, _EVENT] = np.where(told.event >= 0, told.event, -1 - np.arange(len(nvtx)))
    values[:, _STEP] = np.maximum(told.step, 0)
    values[:, READ_FIELDS.index("layer")] = -1
    values[:, READ_FIELDS.index("kind")] = -1
    values[:, READ_FIELDS.index("flags")] = np.where(called(nvtx), Flag.UNKNOWN, 0)
    values[:, READ_FIELDS.index("version")] = 2
    rows = np.flatnonzero(told.found)
    values[rows] = told.fields(rows)
    for columns, has in ((from_json, has_json), (from_binary, has_binary)):
        if has.any():
            values[has] = _rows(columns, np.flatnonzero(has))
    return values


_BLOCK = 1 << 13
"""Ranges compared at a time: few enough that their fields stay in a cache."""


def _agree(one: Ints, other: Ints, rows: Ints, nvtx: pa.Table, where: str) -> None:
    """Refuse fields of the same ranges, [rows, fields], that differ."""
    if (one == other).all():
        return
    at, column = np.argwhere(one != other)[0].tolist()
    name, path = READ_FIELDS[column], nvtx["path"][int(rows[at])].as_py()
    found = f"two costs for one range: {name} of {path} is {one[at, column]} and {other[at, column]}"
    raise Refused(where, found, "the report was damaged or altered; export it again from the .nsys-rep")


_MOST = 2.0**62


def check_sums(costs: RangeCosts, where: str) -> None:
    """Refuse costs that do not fit 64 bits together."""
    for name in COST_FIELDS:
        together = float(np.sum(costs.field(name), dtype=np.float64))
        if together >= _MOST:
            found = f"{name} of all ranges comes to {together:.3g}, more than can be counted"
            raise Refused(where, found, "the report was damaged or altered; export it again from the .nsys-rep")
