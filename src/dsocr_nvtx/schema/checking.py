"""Files of our own, checked before anything in them is used: whole, readable, of the columns and types that they have.

A damaged file is refused by name. What Arrow reads it does not check: an index beyond its dictionary ends the process
when a value is asked for, so every table is validated in full first.
"""

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.errors import Refused

REMEDY = "name a table that `dsocr-nvtx join` or `run` wrote"
MOST_JSON = 1 << 26
"""Bytes of a JSON file of ours: the largest, a run's of a thousand pages, has a hundredth of them."""


def open_regular(path: Path, remedy: str = REMEDY) -> BufferedReader:
    """Open a file to read; refuse what is none, a pipe or a device too, which could be waited for without end."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as cause:
        raise Refused(path, "no such file", remedy) from cause
    except (OSError, ValueError) as cause:
        raise Refused(path, f"cannot be read: {getattr(cause, 'strerror', None) or cause}", remedy) from cause
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        raise Refused(path, "a directory" if stat.S_ISDIR(mode) else "a pipe or a device, not a file", remedy)
    return os.fdopen(number, "rb")


def read_regular(path: Path, remedy: str = REMEDY, *, most: int | None = None) -> bytes:
    """Return the bytes of a file; refuse one of more than ``most`` bytes."""
    with open_regular(path, remedy) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise Refused(path, f"{size:,} bytes, which is more than the {most:,} that such a file can have", remedy)
        try:
            return file.read()
        except OSError as cause:
            raise Refused(path, f"cannot be read: {cause.strerror or cause}", remedy) from cause


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, found: str, remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file; one that cannot be read is refused as ``found``, with the ``remedy``."""
    try:
        told = json.loads(read_regular(path, remedy, most=MOST_JSON).decode("utf-8"))
    except (ValueError, RecursionError) as cause:
        raise Refused(path, found, remedy) from cause
    if not isinstance(told, dict):
        raise Refused(path, found, remedy)
    return told


def arrow_table(path: Path, data: bytes) -> pa.Table:
    """Return the table in the bytes of an Arrow IPC file, validated in full; refuse a damaged one."""
    try:
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            table = reader.read_all()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as cause:
        raise Refused(path, "not an Arrow IPC file, or a damaged one", REMEDY) from cause
    check_valid(table, path)
    return table


def check_valid(table: pa.Table, path: Path) -> None:
    """Refuse a table whose bytes are not what its schema says: offsets, indices, text, names and metadata."""
    try:
        table.validate(full=True)
        for names in (table.column_names, [word.decode() for pair in _metadata(table) for word in pair]):
            "".join(names).encode()
    except (pa.ArrowException, ValueError) as cause:
        raise Refused(path, f"a damaged table ({_line(cause)})", REMEDY) from cause


def _metadata(table: pa.Table) -> Sequence[tuple[bytes, bytes]]:
    return list((table.schema.metadata or {}).items())


def _line(cause: Exception) -> str:
    return str(cause).split("\n", 1)[0][:200]


def check_columns(
    table: pa.Table, schema: pa.Schema, path: Path, remedy: str = REMEDY, *, needed: Sequence[str] | None = None
) -> None:
    """Refuse a table that lacks one of the columns ``needed`` (all of the schema's, unless some are named).

    Refused too: a column of the schema that is of another type, twice there, or lacks a value that it has to have.
    Columns that the schema does not know may be there: a later version's, or a user's own.
    """
    missing = [name for name in (schema.names if needed is None else needed) if name not in table.column_names]
    if missing:
        raise Refused(path, f"no column {', '.join(missing) if len(missing) <= _FEW else missing[0]}", remedy)
    for wanted in schema:
        name = wanted.name
        if name not in table.column_names:
            continue
        if table.column_names.count(name) > 1:
            raise Refused(path, f"two columns {name}", remedy)
        column = table[name]
        if not _fits(column.type, wanted.type):
            raise Refused(path, f"column {name} holds {column.type}, not {wanted.type}", remedy)
        if column.null_count and not wanted.nullable:
            raise Refused(path, f"column {name} has rows without a value", remedy)


def check_finite(table: pa.Table, path: Path, remedy: str = REMEDY) -> pa.Table:
    """Return a table; refuse one that holds an infinite number, or none where a number is."""
    for item in table.schema:
        if pa.types.is_floating(item.type) and pc.any(pc.invert(pc.is_finite(table[item.name]))).as_py():
            raise Refused(path, f"column {item.name} holds what is no number", remedy)
    return table


_FEW = 3
"""Columns that are named when they are missing; of a table of another kind the first says enough."""


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_dictionary(found) and pa.types.is_dictionary(wanted):
        return bool(found.value_type == wanted.value_type)
    return bool(found == wanted)
