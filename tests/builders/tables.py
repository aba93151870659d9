"""Tiny Arrow tables: rows as mappings, what a test does not care about filled in."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from dsocr_nvtx.ingest.trace import Device, Trace
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_FIELDS_V1 as PAYLOAD_FIELDS
from dsocr_nvtx.schema.tables import ANNOUNCEMENTS, GRAPH_NODES, LAUNCHES, NVTX, OPERATIONS, PAYLOAD, conform

Row = Mapping[str, object]

_USUAL: Row = {
    "pid": 1, "tid": 1, "stage": "decode", "path": "decoder.0.mlp", "module": "decoder", "kind": "mlp", "level": "op",
    "dtype": "bfloat16", "batch": 1, "tokens": 1, "operation": "kernel", "name": "gemm", "stream": 7, "blocks": 132,
    "threads": 128, "bucket": "attributed", "class": "matmul", "rule": "gemm", "text": "", "origin": "call",
}  # fmt: skip


def filled(schema: pa.Schema, rows: Sequence[Row]) -> pa.Table:
    """Return a table of ``schema``: named values, else usual ones, else null where allowed, else zero."""
    return conform({item.name: [_value(item, row) for row in rows] for item in schema}, schema)


def _value(item: pa.Field, row: Row) -> object:
    if item.name in row:
        return _fields(row[item.name]) if item.type == PAYLOAD else row[item.name]
    return None if item.nullable else _USUAL.get(item.name, 0)


def _fields(record: object) -> object:
    """Return a payload's bytes as its fields."""
    if not isinstance(record, bytes):
        return record
    return dict(zip(PAYLOAD_FIELDS, np.frombuffer(record, "<i8").tolist(), strict=True))


def payload(**fields: int) -> list[int]:
    """Return a payload's values in the order of `PAYLOAD_FIELDS`; zero where not named, and no layer."""
    unknown = fields.keys() - set(PAYLOAD_FIELDS)
    assert not unknown, unknown
    return [fields.get(name, {"layer": -1, "batch": 1, "tokens": 1}.get(name, 0)) for name in PAYLOAD_FIELDS]


def trace(
    nvtx: Sequence[Row] = (), operations: Sequence[Row] = (), launches: Sequence[Row] = (),
    announcements: Sequence[Row] = (), graph_nodes: Sequence[Row] = (), device: str = "NVIDIA H200",
) -> Trace:  # fmt: skip
    """Return a trace of these rows."""
    table = filled(OPERATIONS, operations)
    used = {(row["pid"], row["device"]) for row in table.to_pylist()}
    return Trace(
        nvtx=filled(NVTX, nvtx),
        announcements=filled(ANNOUNCEMENTS, announcements),
        launches=filled(LAUNCHES, launches),
        operations=table,
        graph_nodes=filled(GRAPH_NODES, graph_nodes),
        devices={key: Device(ordinal=int(key[1]), name=device) for key in used},
        source={"tool": "by hand"},
    )
