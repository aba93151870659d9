"""The formats that tables are written in: Arrow IPC, Parquet, CSV and JSON."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from dsocr_nvtx.errors import printable

Written: TypeAlias = pa.Table | pa.RecordBatchReader
"""A table, or one that comes a piece at a time and is never in memory whole."""


def _parts(table: Written) -> Iterator[pa.Table]:
    yield from [table] if isinstance(table, pa.Table) else (pa.Table.from_batches([batch]) for batch in table)


def _whole(table: Written) -> pa.Table:
    return table if isinstance(table, pa.Table) else table.read_all()


def _arrow(table: Written, path: Path) -> None:
    # A large table is a seventh of the size and written in a third of the time: the system copies less.
    packed = pa.ipc.IpcWriteOptions(compression="lz4")
    # As bytes: a name need not be UTF-8.
    with pa.OSFile(os.fsencode(path), "wb") as sink, pa.ipc.new_file(sink, table.schema, options=packed) as writer:
        for part in _parts(table):
            writer.write_table(part)


def _parquet(table: Written, path: Path) -> None:
    import pyarrow.parquet as pq

    # Dictionaries of numbers that hardly repeat make a file larger and cost more than all else; words have theirs.
    words = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    with (
        path.open("wb") as file,
        pq.ParquetWriter(file, table.schema, compression="lz4", use_dictionary=words) as writer,
    ):
        for part in _parts(table):
            writer.write_table(part)


def _csv(table: Written, path: Path) -> None:
    import pyarrow.csv as pc

    table = _whole(table)
    columns = [_plain(table[name]) for name in table.column_names]
    with path.open("wb") as file:
        pc.write_csv(pa.table(columns, names=table.column_names), file)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without a dictionary, and its texts without what would move a terminal's cursor."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not pa.types.is_string(column.type):
        return column
    words = column.unique().to_pylist()
    if all(word is None or word == printable(word) for word in words):
        return column
    return pa.chunked_array([[None if word is None else printable(word) for word in column.to_pylist()]], pa.string())


def _json(table: Written, path: Path) -> None:
    path.write_text(json.dumps(_whole(table).to_pylist(), indent=1, default=_text) + "\n", encoding="utf-8")


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


WRITERS: dict[str, Callable[[Written, Path], None]] = {
    ".arrow": _arrow,
    ".parquet": _parquet,
    ".csv": _csv,
    ".json": _json,
}
"""By suffix."""
