"""Payload bytes and JSON, as Nsight Systems exports them, into the fields of `dsocr_nvtx.schema.payload`.

A blob starts with four little-endian u64 (how many payloads, schema id, payload size, payload offset); the payload
follows at the offset. Schema ids are numbered per domain. Python's ``nvtx`` registers a structured numpy type as a
schema whose every entry names a one-entry schema of its own, so the layout is found by following schema ids down to the
NVTX entry types. Equal layouts are decoded together.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from dsocr_nvtx.ingest.cells import windows
from dsocr_nvtx.ingest.fields import Fields
from dsocr_nvtx.ingest.source import Ints, Mask
from dsocr_nvtx.schema.payload import READ_FIELDS
from dsocr_nvtx.schema.payload_v1 import WIRES
from dsocr_nvtx.schema.values import values_of
from dsocr_nvtx.schema.wire import Wire

_ENTRY_TYPES = {
    1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<i8", 8: "<u8", 9: "<i8", 10: "<u8",
    11: "i1", 12: "u1", 13: "<i2", 14: "<u2", 15: "<i4", 16: "<u4", 17: "<i8", 18: "<u8", 19: "<f4", 20: "<f8",
    22: "<u8", 23: "<u8", 32: "u1", 42: "<f2", 43: "<f4", 44: "<f8",
}  # fmt: skip
"""NVTX payload entry types of fixed size, by the codes of nvToolsExtPayload.h."""

_HEADER_BYTES = 32
_DEEPEST, _MOST_ENTRIES, _LARGEST = 8, 256, 1 << 20
"""Of a payload schema: how deep others may lie in it, how many entries it may have, and bytes."""


@frozen
class Entry:
    """One entry of a payload schema: its name, type code or schema id, and offset in bytes."""

    name: str
    kind: int
    offset: int


SchemaTable = Mapping[tuple[int, int], tuple[int, Sequence[Entry]]]
"""(domain id, schema id) -> (payload size, entries)."""


def schema_layouts(schemas: SchemaTable) -> "_Layouts":
    """Return what gives the numpy type of a payload schema, by domain and schema id.

    It gives None where a schema is unknown, names itself, is not of fixed layout, or does not fit the size it states.
    Each is looked at once, however often others name it.
    """
    found: dict[tuple[int, int], np.dtype | None] = {}

    def layout(domain: int, schema: int, depth: int = 0) -> np.dtype | None:
        key = domain, schema
        if depth > _DEEPEST or key not in schemas:
            return None
        if key not in found:
            found[key] = None  # what names itself meets this
            size, entries = schemas[key]
            if len(entries) <= _MOST_ENTRIES:
                found[key] = _struct(size, entries, [of_entry(domain, entry, depth) for entry in entries])
        return found[key]

    def of_entry(domain: int, entry: Entry, depth: int) -> np.dtype | None:
        if entry.kind in _ENTRY_TYPES:
            return np.dtype(_ENTRY_TYPES[entry.kind])
        nested = layout(domain, entry.kind, depth + 1)
        if nested is not None and nested.names and len(nested.names) == 1:
            return nested[0]  # a scalar that was wrapped in a schema of its own
        return nested

    return layout


def _struct(size: int, entries: Sequence[Entry], kinds: Sequence[np.dtype | None]) -> np.dtype | None:
    known = [kind for kind in kinds if kind is not None]
    if not 0 < len(known) == len(entries):
        return None
    ends = [entry.offset + kind.itemsize for entry, kind in zip(entries, known, strict=True)]
    whole = size or max(ends)
    # numpy reads wherever a type says: also past the end, where offsets add up to more than it counts with.
    if min(entry.offset for entry in entries) < 0 or not max(ends) <= whole <= _LARGEST:
        return None
    spec = {"names": [e.name for e in entries], "formats": known, "offsets": [e.offset for e in entries]}
    try:
        return np.dtype({**spec, "itemsize": whole})  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError):
        return None


def decode_blobs(blobs: Iterable[pa.Array], domains: Ints, schemas: SchemaTable) -> pa.StructArray:
    """Return the fields of each blob, of an event of that domain, or null.

    Blobs come in pieces, of which only one need be in memory. Fields take as few bytes as they need.
    """
    found = Fields(len(domains))
    layouts = schema_layouts(schemas)
    first = 0
    for part in blobs:
        _decode_part(part, first, domains[first : first + len(part)], layouts, found)
        first += len(part)
    return found.array()


_Layouts = Callable[[int, int], np.dtype | None]
"""(domain id, schema id) -> layout (`schema_layouts`)."""


def _decode_part(blobs: pa.Array, first: int, domains: Ints, layouts: _Layouts, found: "Fields") -> None:
    """Put the fields of some blobs, the first of which is that of row ``first``."""
    if blobs.null_count == len(blobs):
        return
    edges = np.frombuffer(blobs.buffers()[1], np.int32)[blobs.offset : blobs.offset + len(blobs) + 1].astype(np.int64)
    rows = np.flatnonzero(np.diff(edges) >= _HEADER_BYTES)
    for at in range(0, len(rows), _BLOCK):
        mine = rows[at : at + _BLOCK]
        data = np.frombuffer(blobs.buffers()[2], np.uint8)
        heads = windows(data, edges[mine], _HEADER_BYTES).view("<u8")
        length = edges[mine + 1] - edges[mine]
        for key, group in _alike([domains[mine], *heads[:, 1:].view("<i8").T, length]):
            found.put(_span(first + mine[group]), *_decode(data, edges[mine[group]], key, layouts))


_BLOCK = 1 << 14
"""Blobs decoded together: few enough that an index of every byte stays small."""


def _alike(keys: Sequence[Ints]) -> list[tuple[list[int], Ints]]:
    """Return each distinct key, one number of each array, with the rows that have it. Nearly always there is one."""
    if all((part == part[0]).all() for part in keys):
        return [([int(part[0]) for part in keys], np.arange(len(keys[0])))]
    found, codes = np.unique(np.column_stack(keys), axis=0, return_inverse=True)
    return [(key.tolist(), np.flatnonzero(codes.reshape(-1) == code)) for code, key in enumerate(found)]


def _span(rows: Ints) -> Ints | slice:
    """Return rising rows, where none is left out, as a slice, which is written at once."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first == len(rows) - 1 else rows


def _decode(data: npt.NDArray[np.uint8], begins: Ints, key: list[int], layouts: _Layouts) -> tuple[Ints, Mask]:
    domain, schema, size, offset, length = key
    nothing = np.zeros((len(begins), len(READ_FIELDS)), np.int64), np.zeros(len(begins), bool)
    # Read as signed words: what is negative is beyond any size and any schema's id.
    if schema < 0 or not 0 <= offset <= length or not 0 <= size <= length - offset:
        return nothing
    layout = layouts(domain, schema)
    if layout is None or layout.itemsize != size:
        return nothing
    wire = _wire_of(layout.names or ())
    if wire is None:
        return nothing
    values, known = _fields(windows(data, begins + offset, size), layout, wire)
    return wire.read(values), known


def _wire_of(names: Collection[str]) -> Wire | None:
    """Return the version that has all its fields among these, or None."""
    return next((wire for wire in WIRES if set(wire.fields) <= set(names)), None)


def _fields(body: npt.NDArray[np.uint8], layout: np.dtype, wire: Wire) -> tuple[Ints, Mask]:
    if layout == wire.dtype:
        return body.view("<i8"), np.ones(len(body), bool)
    records = body.view(layout)[:, 0]
    values, known = np.zeros((len(body), len(wire.fields)), np.int64), np.ones(len(body), bool)
    for index, name in enumerate(wire.fields):
        whole = records[name]
        if whole.dtype.kind not in "iuf" or whole.ndim != 1:
            return values, np.zeros(len(body), bool)
        if whole.dtype.kind == "f":
            known &= np.isfinite(whole) & (np.abs(whole) < 2.0**63) & (np.floor(whole) == whole)
        elif whole.dtype.kind == "u":
            known &= whole < np.uint64(1 << 63)
        values[:, index] = np.where(known, whole, 0).astype(np.int64)
    return values, known


def decode_json(texts: pa.Array) -> pa.StructArray:
    """Return the fields of payloads that nsys printed as JSON; null for other text.

    Numbers are read as exact integers. Python's ``nvtx`` nests each scalar under the name of its type.
    """
    texts = pc.if_else(pc.starts_with(texts, "{"), texts, pa.scalar(None, texts.type))
    found, rows = Fields(len(texts)), np.flatnonzero(values_of(texts.is_valid()))
    if len(rows):
        told = texts.drop_null()
        values, known = _decode_alike(told) or _decode_each(told.to_pylist())
        found.put(rows, values, known)
    return found.array()


def _decode_each(texts: Sequence[str]) -> tuple[Ints, Mask]:
    decoded = [decode_one_json(text) for text in texts]
    values = np.zeros((len(texts), len(READ_FIELDS)), np.int64)
    for wire in WIRES:
        rows = [row for row, one in enumerate(decoded) if one is not None and one[0] is wire]
        found = [one[1] for one in decoded if one is not None and one[0] is wire]
        values[rows] = wire.read(np.array(found, np.int64).reshape(len(rows), len(wire.fields)))
    return values, np.array([one is not None for one in decoded])


def _decode_alike(texts: pa.Array) -> tuple[Ints, Mask] | None:
    """Return the fields of texts that are all laid out as the first one is, or None where they are not."""
    import pyarrow.json as pj

    first = texts[0].as_py()
    joined = "\n".join(texts.to_pylist()).encode()
    told = decode_one_json(first)
    if told is None or joined.count(b"\n") != len(texts) - 1:
        return None
    wire, _ = told
    nesting = {name: list(value) if isinstance(value, dict) else [] for name, value in json.loads(first).items()}
    kinds = [(n, pa.struct([(inner[0], pa.int64())]) if inner else pa.int64()) for n, inner in nesting.items()]
    options = pj.ParseOptions(explicit_schema=pa.schema(kinds), unexpected_field_behavior="error")
    try:
        table = pj.read_json(pa.BufferReader(joined), parse_options=options).combine_chunks()
    except pa.ArrowException:
        return None
    columns = [_flat(table[name].combine_chunks(), nesting[name]) for name in wire.fields]
    if len(table) != len(texts) or any(column.null_count for column in columns):
        return None
    return wire.read(np.column_stack([values_of(column) for column in columns])), np.ones(len(texts), bool)


def _flat(column: pa.Array, inner: list[str]) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    return column.flatten()[0] if inner else column


def decode_one_json(text: str) -> tuple[Wire, list[int]] | None:
    """Return the version and the fields of one such text, None for any other text."""
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
        wire = _wire_of(found)
        if wire is None:
            return None
        values = [_scalar(found[name]) for name in wire.fields]
        np.array(values, np.int64)  # refuses what is beyond a word
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return wire, values


def _scalar(value: object) -> int:
    if isinstance(value, dict) and len(value) == 1:
        (value,) = value.values()
    if type(value) is not int:
        raise TypeError(value)
    return value
