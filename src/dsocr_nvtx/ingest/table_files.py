"""One table's file of a folder: Parquet, or an Arrow file or stream. A damaged one is an error of Arrow's."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.limits import LIMIT_REMEDY, most_bytes, unpacked_bytes


class TableFile(Protocol):
    """One table's file: its columns, and how many rows it has."""

    names: Collection[str]
    count: int

    def pieces(self, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Return some columns in pieces of about so many rows, which together have all."""
        ...


class ParquetFile:
    """A Parquet file. Its pages are mapped, not copied.

    Statistics are not asked for: damaged ones end the process in pyarrow (26), where what it reads itself is refused.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._path, self._about = path, pq.read_metadata(path, memory_map=True)
        self.names: Collection[str] = self._about.schema.to_arrow_schema().names
        self.count: int = self._about.num_rows
        self._groups = [self._about.row_group(group) for group in range(self._about.num_row_groups)]
        check_rows(sum(group.num_rows for group in self._groups), self.count)
        _check_room(path, self.count, sum(group.total_byte_size for group in self._groups))
        for group in range(len(self._groups)):  # what is noted of its columns is asked for below
            next(self._open().iter_batches(1, row_groups=[group], use_threads=False), None)
        self._longest = self._longest_shared()

    def _open(self) -> Any:
        import pyarrow.parquet as pq

        # The file itself, not its path: a path is looked at for partition columns.
        return pq.ParquetFile(self._path, metadata=self._about, memory_map=True)

    def pieces(self, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Return some columns in pieces of so many rows, or fewer where each may be a long value that rows share."""
        longest = max((self._longest.get(name, 0) for name in columns), default=0)
        rows = max(min(rows, _ANY_PIECE // max(longest, 1)), 1)
        # In one thread, as tables are read side by side already.
        found: Iterator[pa.RecordBatch] = self._open().iter_batches(rows, columns=columns, use_threads=False)
        return found

    def _longest_shared(self) -> dict[str, int]:
        """Return, by column of texts or blobs, how many bytes a value can have that stands once in a dictionary."""
        longest: dict[str, int] = {}
        with self._path.open("rb") as file:
            for group in self._groups:
                for column in map(group.column, range(self._about.num_columns)):
                    if column.physical_type != "BYTE_ARRAY":
                        continue
                    offsets = (column.dictionary_page_offset, column.data_page_offset)
                    file.seek(min(offset for offset in offsets if offset))
                    name = column.path_in_schema
                    longest[name] = max(longest.get(name, 0), _dictionary_bytes(file.read(_HEAD)))
        return longest


_HEAD = 16
"""Bytes that hold the first two fields of a page's header."""


def _dictionary_bytes(head: bytes) -> int:
    """Return the size of the dictionary that a column's first page is, 0 for any other page.

    The header's first fields, in Thrift's compact protocol, are the page's type and its size when unpacked.
    """
    values, at = [], 0
    for _ in range(2):
        if head[at : at + 1] != _INTEGER:
            raise pa.ArrowInvalid("a page without a header")
        value, at, shift = 0, at + 1, 0
        while at < len(head) and head[at] & 0x80:
            value, at, shift = value | (head[at] & 0x7F) << shift, at + 1, shift + 7
        value |= (head[at] if at < len(head) else 0) << shift
        values.append(value >> 1)  # zigzag, and never negative
        at += 1
    kind, size = values
    return size if kind == _DICTIONARY_PAGE else 0


_INTEGER, _DICTIONARY_PAGE = b"\x15", 2


class ArrowFile:
    """An Arrow file or stream, mapped."""

    def __init__(self, path: Path) -> None:
        source = pa.memory_map(str(path))
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_stream(source)
        self._table = reader.read_all()
        _check_room(path, len(self._table), 0)
        self.names: Collection[str] = self._table.column_names
        self.count = len(self._table)

    def pieces(self, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:  # noqa: ARG002 - mapped, not decoded
        """Return some columns in the pieces that the file has."""
        for batch in self._table.select(columns).to_batches():
            for column in batch.columns:
                as_bytes(column).validate(full=True)  # what is mapped is taken at its word, wherever that leads
            yield batch


_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
"""What strings are where nothing is asked of their bytes."""


def holds_bytes(kind: pa.DataType) -> bool:
    """Say whether a column's values are bytes, texts among them."""
    return kind in _BYTES or kind in _BYTES.values()


def as_bytes(column: pa.Array) -> pa.Array:
    """Return texts as blobs, the bytes not copied; any other column as it is."""
    return column.view(_BYTES[column.type]) if column.type in _BYTES else column


_ANY_ROWS = 1 << 20
"""Rows that any table may have; of more, each takes a byte of its file at least."""


_ANY_PIECE = 1 << 30
"""Bytes that a piece of a column may take, whatever it holds."""


def _check_room(path: Path, rows: int, plain: int) -> None:
    """Refuse a file that says to be much more than it is: some kilobytes can hold a thousand million equal rows."""
    size = path.stat().st_size
    if 8 * rows > most_bytes(8 * max(_ANY_ROWS, size)):
        raise Refused(path, f"{rows:,} rows in {size:,} bytes", LIMIT_REMEDY)
    if plain > most_bytes(unpacked_bytes(size)):
        raise Refused(path, f"{size:,} bytes that unpack to {plain:,}", LIMIT_REMEDY)


def check_rows(found: int, said: int) -> None:
    """Refuse a file that counts its rows wrong."""
    if found != said or said < 0:
        raise pa.ArrowInvalid(f"{found:,} rows, and {said:,} by its own account")
