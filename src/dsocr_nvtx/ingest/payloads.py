"""Payload bytes and JSON, as Nsight Systems exports them, into the records of `dsocr_nvtx.schema.payload`.

A blob starts with four little-endian u64 (domain id, schema id, payload size, payload offset); the payload follows at
the offset. Python's ``nvtx`` registers a structured numpy type as a schema whose every entry names a one-entry schema
of its own, so the layout is found by following schema ids down to the NVTX entry types.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from attrs import frozen

from dsocr_nvtx.schema.payload import PAYLOAD_DTYPE, PAYLOAD_FIELDS

_ENTRY_TYPES = {
    1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<i8", 8: "<u8", 9: "<i8", 10: "<u8",
    11: "i1", 12: "u1", 13: "<i2", 14: "<u2", 15: "<i4", 16: "<u4", 17: "<i8", 18: "<u8", 19: "<f4", 20: "<f8",
    22: "<u8", 23: "<u8", 32: "u1", 42: "<f2", 43: "<f4", 44: "<f8",
}  # fmt: skip
"""NVTX payload entry types of fixed size, by the codes of nvToolsExtPayload.h."""

_HEADER = np.dtype([("domain", "<u8"), ("schema", "<u8"), ("size", "<u8"), ("offset", "<u8")])
_DEEPEST = 8


@frozen
class Entry:
    """One entry of a payload schema: its name, type code or schema id, and offset in bytes."""

    name: str
    kind: int
    offset: int


SchemaTable = Mapping[tuple[int, int], tuple[int, Sequence[Entry]]]
"""(domain id, schema id) -> (payload size, entries)."""


def schema_dtype(schemas: SchemaTable, domain: int, schema: int, depth: int = 0) -> np.dtype | None:
    """Return the numpy type of a payload schema, or None where it is unknown, cyclic, or not of fixed layout."""
    if depth > _DEEPEST or (domain, schema) not in schemas:
        return None
    size, entries = schemas[domain, schema]
    kinds = [_entry_dtype(schemas, domain, entry, depth) for entry in entries]
    if not entries or any(kind is None for kind in kinds):
        return None
    spec = {"names": [e.name for e in entries], "formats": kinds, "offsets": [e.offset for e in entries]}
    try:
        layout: np.dtype = np.dtype({**spec, "itemsize": size} if size else spec)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return None
    return layout


def _entry_dtype(schemas: SchemaTable, domain: int, entry: Entry, depth: int) -> np.dtype | None:
    if entry.kind in _ENTRY_TYPES:
        return np.dtype(_ENTRY_TYPES[entry.kind])
    nested = schema_dtype(schemas, domain, entry.kind, depth + 1)
    if nested is not None and nested.names and len(nested.names) == 1:
        return nested[0]  # a scalar that was wrapped in a schema of its own
    return nested


def decode_blobs(blobs: Sequence[object], schemas: SchemaTable) -> list[bytes | None]:
    """Return each blob as the bytes of one `PAYLOAD_DTYPE` record; None where it is none of ours."""
    layouts: dict[tuple[int, int], np.dtype | None] = {}
    return [_decode(blob, schemas, layouts) if isinstance(blob, bytes) else None for blob in blobs]


def _decode(blob: bytes, schemas: SchemaTable, layouts: dict[tuple[int, int], np.dtype | None]) -> bytes | None:
    if len(blob) < _HEADER.itemsize:
        return None
    domain, schema, size, offset = (int(word) for word in np.frombuffer(blob, "<u8", 4))
    key = (domain, schema)
    if key not in layouts:
        layouts[key] = schema_dtype(schemas, *key)
    layout = layouts[key]
    if layout is None or layout.itemsize != size or offset + size > len(blob) or layout.names is None:
        return None
    body = blob[offset : offset + size]
    if layout == PAYLOAD_DTYPE:
        return body
    if not set(PAYLOAD_FIELDS) <= set(layout.names):
        return None
    record = np.frombuffer(body, layout)[0]
    return _pack([int(record[name]) for name in PAYLOAD_FIELDS])


def decode_json(text: object) -> bytes | None:
    """Return a payload that nsys printed as JSON as the bytes of one `PAYLOAD_DTYPE` record; None for any other text.

    Numbers are read as exact integers. Python's ``nvtx`` nests each scalar under the name of its type.
    """
    if not isinstance(text, str) or not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
        return _pack([_scalar(found[name]) for name in PAYLOAD_FIELDS])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _scalar(value: object) -> int:
    if isinstance(value, dict) and len(value) == 1:
        (value,) = value.values()
    if type(value) is not int:
        raise TypeError(value)
    return value


def _pack(values: list[int]) -> bytes:
    packed: npt.NDArray[np.int64] = np.array(values, np.int64)
    return packed.tobytes()
