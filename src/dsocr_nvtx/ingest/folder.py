"""Reading what `nsys export -t parquetdir` or `-t arrowdir` wrote: a directory with one file per table."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.source import NULL, TEXT_LIMIT, Ints, Mask, product
from dsocr_nvtx.ingest.source import whole as concatenated
from dsocr_nvtx.ingest.texts import plain_text
from dsocr_nvtx.schema.values import values_of

_REEXPORT = "export it again: nsys export -t parquetdir REPORT.nsys-rep"


def _parquet_names(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    names: list[str] = pq.read_schema(path).names
    return names


def _parquet(path: Path, columns: list[str]) -> pa.Table:
    import pyarrow.parquet as pq

    # The file itself, not its path: a path is looked at for partition columns.
    return pq.ParquetFile(path).read(columns)


_PIECE_ROWS = 1 << 14


def _parquet_pieces(path: Path, column: str) -> Iterator[pa.Array]:
    import pyarrow.parquet as pq

    batches = pq.ParquetFile(path).iter_batches(_PIECE_ROWS, columns=[column], use_threads=False)
    return (batch.column(0) for batch in batches)


def _parquet_constants(path: Path) -> tuple[int, dict[str, int]]:
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    whole = {field.name for field in about.schema.to_arrow_schema() if pa.types.is_integer(field.type)}
    found: dict[str, int] = {}
    for at in range(about.num_columns if about.num_row_groups else 0):
        groups = [about.row_group(group).column(at) for group in range(about.num_row_groups)]
        alike = {_only_value(group.statistics, group.num_values) for group in groups}
        value = alike.pop()
        if not alike and value is not None and groups[0].path_in_schema in whole:
            found[groups[0].path_in_schema] = value
    return about.num_rows, found


def _only_value(known: Any, count: int) -> int | None:
    """Return the value that all rows of a row group have in a column, as far as its statistics tell."""
    if known is None or not known.has_null_count:
        return None
    if known.null_count == count:
        return NULL
    alike = known.null_count == 0 and known.has_min_max and type(known.min) is int and known.min == known.max
    return (known.min + (1 << 63)) % (1 << 64) - (1 << 63) if alike else None


def _arrow_names(path: Path) -> list[str]:
    names: list[str] = _ipc(path).schema.names
    return names


def _arrow(path: Path, columns: list[str]) -> pa.Table:
    return _ipc(path).read_all().select(columns)


def _arrow_pieces(path: Path, column: str) -> Iterator[pa.Array]:
    return iter(_arrow(path, [column])[column].chunks)


def _arrow_constants(path: Path) -> tuple[int, dict[str, int]]:
    return len(_ipc(path).read_all()), {}


def _ipc(path: Path) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(source)


@frozen
class _Format:
    """How to ask a file for its columns' names, for some columns, for one column in pieces, and for its constants.

    Constants are the number of rows, and the integer columns that are known to hold one value in all of them.
    """

    names: Callable[[Path], list[str]]
    read: Callable[[Path, list[str]], pa.Table]
    pieces: Callable[[Path, str], Iterator[pa.Array]]
    constants: Callable[[Path], tuple[int, dict[str, int]]]


_PARQUET = _Format(_parquet_names, _parquet, _parquet_pieces, _parquet_constants)
_ARROW = _Format(_arrow_names, _arrow, _arrow_pieces, _arrow_constants)
_FORMATS = {".parquet": _PARQUET, ".arrow": _ARROW, ".feather": _ARROW}


class FolderOfTables:
    """A directory of tables as a `dsocr_nvtx.ingest.source.Source`; a file's name is its table's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = self._listed(path)
        self._files = {file.stem: file for file in files}
        if not files:
            found = "a directory without .parquet or .arrow files"
            raise Refused(path, found, f"give a report's file, or {_REEXPORT}")
        self.columns = {table: frozenset(self._names(file)) for table, file in self._files.items()}

    @staticmethod
    def _listed(path: Path) -> list[Path]:
        with _refusing(path):
            files = sorted(p for p in path.iterdir() if p.suffix in _FORMATS)
        for file in files:
            if file.is_symlink():
                raise Refused(file, "a link, which may lead anywhere", "copy the file itself into the directory")
            if not file.is_file():
                raise Refused(file, "not a regular file", _REEXPORT)
        return files

    def _names(self, file: Path) -> list[str]:
        with _refusing(file):
            return _FORMATS[file.suffix].names(file)

    def has(self, table: str, *columns: str) -> bool:
        """Say whether a table exists and has all these columns."""
        return table in self.columns and self.columns[table].issuperset(columns)

    def integers(self, table: str, columns: Sequence[str]) -> dict[str, Ints]:
        """Return whole integer columns, NULL as `NULL`; a value that is not an integer is refused."""
        if table not in self.columns:
            return {name: np.empty(0, np.int64) for name in columns}
        if any("*" in name for name in columns):
            plain = self.integers(table, list(dict.fromkeys(part for name in columns for part in name.split("*"))))
            return {name: product([plain[part] for part in name.split("*")]) for name in columns}
        file = self._files[table]
        with _refusing(file):
            count, constants = _FORMATS[file.suffix].constants(file)
            alike = {name: constants.get(name, NULL) for name in columns if name not in self.columns[table]}
            alike |= {name: constants[name] for name in columns if name in constants}
            asked = [name for name in columns if name not in alike]
            found = {name: np.broadcast_to(np.int64(value), (count,)) for name, value in alike.items()}
            if asked:
                read = _FORMATS[file.suffix].read(file, asked)
                found |= {name: _integers(read[name]) for name in asked}
        return {name: found[name] for name in columns}

    def strings(self, table: str, column: str, rows: Mask | None = None) -> pa.Array:
        """Return a text column of the rows in the mask, cut at `TEXT_LIMIT`."""
        pieces = list(self._pieces(table, column, rows))
        found = concatenated(pa.chunked_array(pieces)) if pieces else pa.array([], pa.string())
        if pa.types.is_binary(found.type) or pa.types.is_large_binary(found.type):
            return pa.array([plain_text(value) for value in found.to_pylist()], pa.string())
        with _refusing(self.path):
            return pc.utf8_slice_codeunits(found.cast(pa.string()), 0, TEXT_LIMIT)

    def blobs(self, table: str, column: str, rows: Mask | None = None) -> Iterator[pa.Array]:
        """Return a column of the rows in the mask as bytes, in pieces; null for NULL and for what is not a blob."""
        for piece in self._pieces(table, column, rows):
            binary = pa.types.is_binary(piece.type) or pa.types.is_large_binary(piece.type)
            yield piece.cast(pa.binary()) if binary else pa.nulls(len(piece), pa.binary())

    def _pieces(self, table: str, column: str, rows: Mask | None) -> Iterator[pa.Array]:
        """Return a column of the rows in the mask, in pieces of one type."""
        if not self.has(table, column):
            whole = self.integers(table, ["rowid"])["rowid"]  # no such column: a NULL for every row
            yield pa.nulls(len(whole) if rows is None else int(rows.sum()), pa.string())
            return
        file, first = self._files[table], 0
        with _refusing(file):
            for piece in _FORMATS[file.suffix].pieces(file, column):
                found = piece.cast(piece.type.value_type) if pa.types.is_dictionary(piece.type) else piece
                first += len(piece)
                yield found if rows is None else found.filter(pa.array(rows[first - len(piece) : first]))


def _integers(column: pa.ChunkedArray) -> Ints:
    if pa.types.is_null(column.type):
        return np.full(len(column), NULL)
    if not pa.types.is_integer(column.type):
        raise pa.ArrowInvalid(f"values that are not integers ({column.type})")
    if pa.types.is_uint64(column.type):
        return values_of(concatenated(column.fill_null(pa.scalar(1 << 63, pa.uint64())))).view(np.int64)
    whole = concatenated(column.cast(pa.int64()))
    return values_of(whole.fill_null(NULL) if whole.null_count else whole)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as cause:
        raise Refused(path, f"damaged or unreadable ({str(cause).splitlines()[0]})", _REEXPORT) from cause
