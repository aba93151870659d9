"""Reading what `nsys export -t parquetdir` or `-t arrowdir` wrote: a directory with one file per table."""

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.column import Column, narrowed, one_value
from dsocr_nvtx.ingest.source import NULL, TEXT_LIMIT, Ints, Mask, product
from dsocr_nvtx.ingest.source import whole as concatenated
from dsocr_nvtx.ingest.texts import plain_text
from dsocr_nvtx.schema.values import values_of

_REEXPORT = "export it again: nsys export -t parquetdir REPORT.nsys-rep"


_PIECE_ROWS, _BLOB_ROWS = 1 << 14, 1 << 12
"""Rows decoded at once: of columns, of one of blobs. What they take is used again for the next."""


class _File(Protocol):
    """One table's file: its columns, how many rows it has, and columns that are known to hold one value in all rows.

    The value is an integer, or `NULL` in a column of any type.
    """

    names: Collection[str]
    count: int
    alike: Mapping[str, int]

    def pieces(self, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Return some columns in pieces of about so many rows, which together have all."""
        ...


class _Parquet:
    """A Parquet file, whose statistics tell the columns of one value. Its pages are mapped, not copied."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._path, self._about = path, pq.read_metadata(path, memory_map=True)
        schema = self._about.schema.to_arrow_schema()
        kinds = dict(zip(schema.names, schema.types, strict=True))
        self.names: Collection[str] = schema.names
        self.count: int = self._about.num_rows
        self._groups = [self._about.row_group(group) for group in range(self._about.num_row_groups)]
        _check_rows(sum(group.num_rows for group in self._groups), self.count)
        self.alike: Mapping[str, int] = {
            name: value
            for at in range(self._about.num_columns if self._groups else 0)
            if (name := self._about.schema.column(at).path) in kinds
            and (value := self._only_value(at, pa.types.is_integer(kinds[name]))) is not None
        }

    def pieces(self, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        # The file itself, not its path: a path is looked at for partition columns.
        file = pq.ParquetFile(self._path, metadata=self._about, memory_map=True)
        # In one thread, as tables are read side by side already.
        found: Iterator[pa.RecordBatch] = file.iter_batches(rows, columns=columns, use_threads=False)
        return found

    def _only_value(self, at: int, is_integer: bool) -> int | None:
        found = set[int | None]()
        for group in self._groups:
            column = group.column(at)
            _check_rows(column.num_values, group.num_rows)
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


class _Arrow:
    """An Arrow file or stream, mapped."""

    alike: Mapping[str, int] = {}

    def __init__(self, path: Path) -> None:
        source = pa.memory_map(str(path))
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_stream(source)
        self._table = reader.read_all()
        self.names: Collection[str] = self._table.column_names
        self.count = len(self._table)

    def pieces(self, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:  # noqa: ARG002 - mapped, not decoded
        for batch in self._table.select(columns).to_batches():
            for column in batch.columns:
                _as_bytes(column).validate(full=True)  # what is mapped is taken at its word, wherever that leads
            yield batch


_FORMATS: Mapping[str, Callable[[Path], _File]] = {".parquet": _Parquet, ".arrow": _Arrow, ".feather": _Arrow}


def _reports_in(path: Path) -> str:
    """Return how the reports in a directory are joined; nothing where there are none."""
    for suffix in (".nsys-rep", ".sqlite"):
        if any(path.glob(f"*{suffix}")):
            return f"of the reports in it: dsocr-nvtx join {shlex.quote(str(path / f'*{suffix}'))} -o OUT"
    return ""


class FolderOfTables:
    """A directory of tables as a `dsocr_nvtx.ingest.source.Source`; a file's name is its table's."""

    shared = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._paths = {file.stem: file for file in self._listed(path)}
        if not self._paths:
            found = "a directory without .parquet or .arrow files"
            raise Refused(path, found, _reports_in(path) or f"give a report's file, or {_REEXPORT}")
        self._files = {table: self._opened(file) for table, file in self._paths.items()}
        self.columns = {table: frozenset(file.names) for table, file in self._files.items()}

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

    @staticmethod
    def _opened(path: Path) -> _File:
        with _refusing(path):
            file = _FORMATS[path.suffix](path)
            if len(set(file.names)) < len(file.names):
                raise pa.ArrowInvalid("two columns of one name")
            return file

    def has(self, table: str, *columns: str) -> bool:
        """Say whether a table exists and has all these columns."""
        return table in self.columns and self.columns[table].issuperset(columns)

    def integers(self, table: str, columns: Sequence[str], small: Collection[str] = ()) -> dict[str, Ints]:
        """Return whole integer columns, NULL as `NULL`; a value that is not an integer is refused."""
        if table not in self.columns:
            return {name: np.empty(0, np.int64) for name in columns}
        if any("*" in name for name in columns):
            parts = {name: name.split("*") for name in columns}
            least = [part for name in parts if name in small for part in parts[name]]
            plain = self.integers(table, list(dict.fromkeys(part for some in parts.values() for part in some)), least)
            found = {name: product([plain[part] for part in some]) for name, some in parts.items()}
            return {n: narrowed(v) if n in small and v.itemsize > 4 else v for n, v in found.items()}
        file = self._files[table]
        alike = {name: file.alike.get(name, NULL) for name in columns if name in file.alike or name not in file.names}
        asked = [name for name in columns if name not in alike]
        found = {name: one_value(value, file.count, small=name in small) for name, value in alike.items()}
        if asked:
            with _refusing(self._paths[table]):
                found |= _integers(file, asked, small)
        return {name: found[name] for name in columns}

    def strings(self, table: str, column: str, rows: Mask | None = None) -> pa.Array:
        """Return a text column of the rows in the mask, cut at `TEXT_LIMIT`; bytes that are no UTF-8 are replaced."""
        pieces = self._pieces(table, column, rows, _PIECE_ROWS)
        with _refusing(self._paths.get(table, self.path)):
            return concatenated(pa.chunked_array([_cut(piece) for piece in pieces], pa.string()))

    def blobs(self, table: str, column: str, rows: Mask | None = None) -> Iterator[pa.Array]:
        """Return a column of the rows in the mask as bytes, in pieces; null for NULL and for what is not a blob.

        A text is one as well: nsys (2025.3) writes blobs into columns of strings.
        """
        for piece in self._pieces(table, column, rows, _BLOB_ROWS):
            with _refusing(self._paths.get(table, self.path)):
                found = _as_bytes(piece).cast(pa.binary()) if _holds_bytes(piece.type) else None
            yield pa.nulls(len(piece), pa.binary()) if found is None else found

    def _pieces(self, table: str, column: str, rows: Mask | None, at_once: int) -> Iterator[pa.Array]:
        """Return a column of the rows in the mask, in pieces of one type; so many rows are decoded at once."""
        file, first = self._files.get(table), 0
        if file is None or column not in file.names or file.alike.get(column) == NULL:
            count = file.count if file is not None else 0
            yield pa.nulls(count if rows is None else int(rows.sum()), pa.string())
            return
        last = file.count if rows is None else int(np.max(np.flatnonzero(rows), initial=-1)) + 1
        with _refusing(self._paths[table]):
            for (piece,) in file.pieces([column], at_once):
                if first >= last:  # what is asked for often stands at the beginning
                    return
                found = _plain(piece)
                first += len(piece)
                yield found if rows is None else found.filter(pa.array(rows[first - len(piece) : first]))
            _check_rows(first, file.count)


def _cut(texts: pa.Array) -> pa.Array:
    """Return texts cut at `TEXT_LIMIT`, what is no UTF-8 in them replaced."""
    if not _holds_bytes(texts.type):
        texts = texts.cast(pa.string())
    try:
        if (pc.max(pc.binary_length(texts)).as_py() or 0) > TEXT_LIMIT:
            texts = pc.utf8_slice_codeunits(texts, 0, TEXT_LIMIT)
        found = texts.cast(pa.string())
        found.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # not UTF-8, or bytes that do not say they are
        found = pa.array([plain_text(value) for value in _as_bytes(texts).to_pylist()], pa.string())
    return found


_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
"""What strings are where nothing is asked of their bytes."""


def _holds_bytes(kind: pa.DataType) -> bool:
    return kind in _BYTES or kind in _BYTES.values()


def _as_bytes(column: pa.Array) -> pa.Array:
    """Return texts as blobs, the bytes not copied; any other column as it is."""
    return column.view(_BYTES[column.type]) if column.type in _BYTES else column


def _integers(file: _File, columns: list[str], small: Collection[str]) -> dict[str, Ints]:
    found = {name: Column(file.count, small=name in small, room=_room) for name in columns}
    first = 0
    for piece in file.pieces(columns, _PIECE_ROWS):
        for name, column in zip(columns, piece.columns, strict=True):
            found[name].put(first, _numbers(_plain(column))[: max(file.count - first, 0)])
        first += len(piece)
    _check_rows(first, file.count)
    return {name: column.values() for name, column in found.items()}


def _check_rows(found: int, said: int) -> None:
    if found != said or said < 0:
        raise pa.ArrowInvalid(f"{found:,} rows, and {said:,} by its own account")


def _plain(column: pa.Array) -> pa.Array:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


_LARGE_PAGE = 1 << 21
"""Bytes in a large page of memory."""


def _room(count: int, kind: type[np.signedinteger[Any]]) -> npt.NDArray[Any]:
    """Return memory for integers, much of it in whole large pages: beside one it comes in hundreds of small ones."""
    size = count * np.dtype(kind).itemsize
    if size < _LARGE_PAGE:
        return np.empty(count, kind)
    whole = np.empty((-(-size // _LARGE_PAGE) + 1) * _LARGE_PAGE, np.uint8)
    first = -whole.ctypes.data % _LARGE_PAGE
    return whole[first : first + size].view(kind)


def _numbers(column: pa.Array) -> npt.NDArray[np.integer[Any]]:
    """Return integers, NULL as `NULL`; unsigned words as signed ones of the same bits."""
    if pa.types.is_null(column.type):
        return np.full(len(column), NULL)
    if not pa.types.is_integer(column.type):
        raise pa.ArrowInvalid(f"values that are not integers ({column.type})")
    values: npt.NDArray[np.integer[Any]] = values_of(column)
    if values.dtype == np.uint64:
        values = values.view(np.int64)
    return np.where(values_of(column.is_null()), np.int64(NULL), values) if column.null_count else values


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as cause:
        words = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise Refused(path, f"damaged or unreadable ({words})", _REEXPORT) from cause
