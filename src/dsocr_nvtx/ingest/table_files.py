"""One table's file of a folder: Parquet, or an Arrow file or stream. A damaged one is an error of Arrow's."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.limits import LIMIT_REMEDY, most_bytes
from dsocr_nvtx.ingest.source import NULL


class TableFile(Protocol):
    """One table's file: its columns, how many rows it has, and columns that are known to hold one value in all rows.

    The value is an integer, or `NULL` in a column of any type.
    """

    names: Collection[str]
    count: int
    alike: Mapping[str, int]

    def pieces(self, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Return some columns in pieces of about so many rows, which together have all."""
        ...


class ParquetFile:
    """A Parquet file, whose statistics tell the columns of one value. Its pages are mapped, not copied."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._path, self._about = path, pq.read_metadata(path, memory_map=True)
        schema = self._about.schema.to_arrow_schema()
        kinds = dict(zip(schema.names, schema.types, strict=True))
        self.names: Collection[str] = schema.names
        self.count: int = self._about.num_rows
        self._groups = [self._about.row_group(group) for group in range(self._about.num_row_groups)]
        check_rows(sum(group.num_rows for group in self._groups), self.count)
        _check_room(path, self.count, sum(group.total_byte_size for group in self._groups))
        self._check_columns()
        self._shared = self._with_dictionary(kinds) if self._groups else frozenset[str]()
        self.alike: Mapping[str, int] = {
            name: value
            for at in range(self._about.num_columns if self._groups else 0)
            if (name := self._about.schema.column(at).path) in kinds
            and (value := self._only_value(at, pa.types.is_integer(kinds[name]))) is not None
        }

    def _check_columns(self) -> None:
        """Read a row of every group: damage to what is noted of a column, asked for by itself, ends the process."""
        file = self._open(())
        for group in range(len(self._groups)):
            next(file.iter_batches(1, row_groups=[group], use_threads=False), None)

    def pieces(self, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Return some columns in pieces of so many rows; texts that the file has in a dictionary stay in one."""
        # In one thread, as tables are read side by side already.
        shared = [name for name in columns if name in self._shared]
        found: Iterator[pa.RecordBatch] = self._open(shared).iter_batches(rows, columns=columns, use_threads=False)
        return found

    def _open(self, dictionaries: Sequence[str]) -> Any:
        import pyarrow.parquet as pq

        # The file itself, not its path: a path is looked at for partition columns.
        return pq.ParquetFile(self._path, metadata=self._about, memory_map=True, read_dictionary=list(dictionaries))

    def _with_dictionary(self, kinds: Mapping[str, pa.DataType]) -> frozenset[str]:
        """Return the columns of texts or blobs of which some kilobytes can be the value of very many rows."""
        columns = [self._groups[0].column(at) for at in range(self._about.num_columns)]
        return frozenset(
            column.path_in_schema
            for column in columns
            if column.has_dictionary_page and holds_bytes(kinds.get(column.path_in_schema, pa.null()))
        )

    def _only_value(self, at: int, is_integer: bool) -> int | None:
        found = set[int | None]()
        for group in self._groups:
            column = group.column(at)
            check_rows(column.num_values, group.num_rows)
            found.add(_only_value(column.statistics, column.num_values, is_integer))
        value, *others = found
        return None if others else value


def _only_value(known: Any, count: int, is_integer: bool) -> int | None:
    """Return the value that all rows of a row group have in a column, as far as its statistics tell."""
    if known is None or not known.has_null_count:
        return None
    if known.null_count == count:
        return NULL
    if not is_integer:  # to ask for a text's minimum is to decode it
        return None
    alike = known.null_count == 0 and known.has_min_max and type(known.min) is int and known.min == known.max
    return (known.min + (1 << 63)) % (1 << 64) - (1 << 63) if alike else None


class ArrowFile:
    """An Arrow file or stream, mapped."""

    alike: Mapping[str, int] = {}

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


_ANY_ROWS, _ANY_BYTES, _MOST_RATIO = 1 << 20, 1 << 28, 100
"""Rows and bytes that any table may have, and how many bytes each byte of its file may be; a row takes one at least."""


def _check_room(path: Path, rows: int, plain: int) -> None:
    """Refuse a file that says to be much more than it is: some kilobytes can hold a thousand million equal rows."""
    size = path.stat().st_size
    if 8 * rows > most_bytes(8 * max(_ANY_ROWS, size)):
        raise Refused(path, f"{rows:,} rows in {size:,} bytes", LIMIT_REMEDY)
    if plain > most_bytes(_ANY_BYTES + _MOST_RATIO * size):
        raise Refused(path, f"{size:,} bytes that unpack to {plain:,}", LIMIT_REMEDY)


def check_rows(found: int, said: int) -> None:
    """Refuse a file that counts its rows wrong."""
    if found != said or said < 0:
        raise pa.ArrowInvalid(f"{found:,} rows, and {said:,} by its own account")
