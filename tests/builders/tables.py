"""Tiny Arrow tables: rows as mappings, what a test does not care about filled in."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from dsocr_nvtx.ingest.announcements import read_costs, read_hits
from dsocr_nvtx.ingest.trace import Device, Trace
from dsocr_nvtx.schema.payload import PAYLOAD_FIELDS, READ_FIELDS
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_FIELDS_V1, WIRE_V1, WIRES
from dsocr_nvtx.schema.tables import (
    ANNOUNCEMENTS,
    GRAPH_NODES,
    LAUNCHES,
    NVTX,
    OPERATIONS,
    PAYLOAD,
    RANGES_READ,
    REPLAYS,
    SINCE_VERSION_2,
    conform,
)

Row = Mapping[str, object]

announcement_v1 = WIRE_V1.announcement
RANGES_V1 = pa.schema([item for item in RANGES_READ if item.name not in SINCE_VERSION_2])
"""``ranges.arrow`` as hooks of version 1 wrote it."""

_USUAL: Row = {
    "pid": 1, "tid": 1, "stage": "decode", "path": "decoder.0.mlp", "module": "decoder", "kind": "mlp", "level": "op",
    "dtype": "bfloat16", "batch": 1, "tokens": 1, "operation": "kernel", "name": "gemm", "stream": 7, "blocks": 132,
    "threads": 128, "bucket": "attributed", "class": "matmul", "rule": "gemm", "text": "", "origin": "call",
    "cost_state": "known",
}  # fmt: skip


def filled(schema: pa.Schema, rows: Sequence[Row]) -> pa.Table:
    """Return a table of ``schema``: named values, else usual ones, else null where allowed, else zero."""
    return conform({item.name: [_value(item, row) for row in rows] for item in schema}, schema)


def _value(item: pa.Field, row: Row) -> object:
    if item.name in row:
        return _fields(row[item.name]) if item.type == PAYLOAD else row[item.name]
    if item.name == "rows":
        return math.prod(int(str(row.get(name, 1))) for name in ("batch", "tokens"))
    return None if item.nullable else _USUAL.get(item.name, 0)


def _fields(record: object) -> object:
    """Return a payload's bytes, of either version, as readers take them."""
    if not isinstance(record, bytes):
        return record
    words = np.frombuffer(record, "<i8")
    wire = next(wire for wire in WIRES if len(wire.fields) == len(words))
    return dict(zip(READ_FIELDS, wire.read(words[None])[0].tolist(), strict=True))


def payload(**fields: int) -> list[int]:
    """Return a payload's values in the order of `PAYLOAD_FIELDS`; zero where not named, no layer, one row."""
    return _values(PAYLOAD_FIELDS, {"layer": -1, "sequences": 1, "rows": 1}, fields)


def payload_v1(**fields: int) -> list[int]:
    """Return the same of version 1."""
    return _values(PAYLOAD_FIELDS_V1, {"layer": -1, "batch": 1, "tokens": 1}, fields)


def _values(names: Sequence[str], usual: Mapping[str, int], fields: Mapping[str, int]) -> list[int]:
    unknown = fields.keys() - set(names)
    assert not unknown, unknown
    return [fields.get(name, usual.get(name, 0)) for name in names]


def trace(
    nvtx: Sequence[Row] = (), operations: Sequence[Row] = (), launches: Sequence[Row] = (),
    announcements: Sequence[Row] = (), graph_nodes: Sequence[Row] = (), device: str = "NVIDIA H200",
) -> Trace:  # fmt: skip
    """Return a trace of these rows."""
    table, marks = filled(OPERATIONS, operations), filled(ANNOUNCEMENTS, announcements)
    used = {(row["pid"], row["device"]) for row in table.to_pylist()}
    return Trace(
        nvtx=filled(NVTX, nvtx),
        announcements=marks,
        costs=read_costs(marks),
        hits=read_hits(marks),
        launches=filled(LAUNCHES, launches),
        operations=table,
        graph_nodes=filled(GRAPH_NODES, graph_nodes),
        replays=REPLAYS.empty_table(),
        devices={key: Device(ordinal=int(key[1]), name=device) for key in used},
        source={"tool": "by hand"},
    )
