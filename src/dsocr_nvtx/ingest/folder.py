"""Reading what `nsys export -t parquetdir` or `-t arrowdir` wrote: a directory with one file per table."""

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.column import Column, narrowed, one_value
from dsocr_nvtx.ingest.limits import limited, unpacked_bytes
from dsocr_nvtx.ingest.source import NULL, TEXT_LIMIT, Ints, Mask, product
from dsocr_nvtx.ingest.source import whole as concatenated
from dsocr_nvtx.ingest.table_files import ArrowFile, ParquetFile, TableFile, as_bytes, check_rows, holds_bytes
from dsocr_nvtx.ingest.texts import plain_text
from dsocr_nvtx.schema.values import values_of

_REEXPORT = "export it again: nsys export -t parquetdir REPORT.nsys-rep"


_PIECE_ROWS, _BLOB_ROWS = 1 << 14, 1 << 12
"""Rows decoded at once: of columns, of one of blobs. What they take is used again for the next."""


_FORMATS: Mapping[str, Callable[[Path], TableFile]] = {
    ".parquet": ParquetFile, ".arrow": ArrowFile, ".feather": ArrowFile,
}  # fmt: skip


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
        listed = self._listed(path)
        self._paths = {file.stem.lower(): file for file in listed}
        if len(self._paths) < len(listed):
            raise Refused(path, "two files of one table, however they are spelt", f"remove one of them, or {_REEXPORT}")
        if not self._paths:
            found = "a directory without .parquet or .arrow files"
            raise Refused(path, found, _reports_in(path) or f"give a report's file, or {_REEXPORT}")
        self._files = {table: self._opened(file) for table, file in self._paths.items()}
        self._names = {table: {name.lower(): name for name in file.names} for table, file in self._files.items()}
        self.columns = {self._paths[table].stem: frozenset(file.names) for table, file in self._files.items()}

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
    def _opened(path: Path) -> TableFile:
        with _refusing(path):
            file = _FORMATS[path.suffix](path)
            if len({name.lower() for name in file.names}) < len(file.names):
                raise pa.ArrowInvalid("two columns of one name")
            return file

    def has(self, table: str, *columns: str) -> bool:
        """Say whether a table exists and has all these columns; names are those of SQL, which does not tell case."""
        names = self._names.get(table.lower())
        return names is not None and all(column.lower() in names for column in columns)

    def integers(self, table: str, columns: Sequence[str], small: Collection[str] = ()) -> dict[str, Ints]:
        """Return whole integer columns, NULL as `NULL`; a value that is not an integer is refused."""
        if any("*" in name for name in columns):
            parts = {name: name.split("*") for name in columns}
            least = [part for name in parts if name in small for part in parts[name]]
            plain = self.integers(table, list(dict.fromkeys(part for some in parts.values() for part in some)), least)
            found = {name: product([plain[part] for part in some]) for name, some in parts.items()}
            return {n: narrowed(v) if n in small and v.itemsize > 4 else v for n, v in found.items()}
        table = table.lower()
        if table not in self._files:
            return {name: np.empty(0, np.int64) for name in columns}
        file, names = self._files[table], self._names[table]
        own = {name: names[name.lower()] for name in columns if name.lower() in names}
        found = {name: one_value(NULL, file.count, small=name in small) for name in columns if name not in own}
        if own:
            with _refusing(self._paths[table]):
                read = _integers(file, list(dict.fromkeys(own.values())), {own[name] for name in own if name in small})
                found |= {name: read[own[name]] for name in own}
        return {name: found[name] for name in columns}

    def strings(self, table: str, column: str, rows: Mask | None = None) -> pa.Array:
        """Return a text column of the rows in the mask, cut at `TEXT_LIMIT`; bytes that are no UTF-8 are replaced."""
        pieces = self._pieces(table, column, rows, _PIECE_ROWS)
        path = self._paths.get(table.lower(), self.path)
        with _refusing(path):
            found = map(_plain, limited(path, column, map(_cut, pieces)))
            return concatenated(pa.chunked_array(list(found), pa.string()))

    def blobs(self, table: str, column: str, rows: Mask | None = None) -> Iterator[pa.Array]:
        """Return a column of the rows in the mask as bytes, in pieces; null for NULL and for what is not a blob.

        A text is one as well: nsys (2025.3) writes blobs into columns of strings.
        """
        path = self._paths.get(table.lower(), self.path)
        usual = unpacked_bytes(path.stat().st_size)
        for shared in limited(path, column, self._pieces(table, column, rows, _BLOB_ROWS), usual):
            with _refusing(path):
                piece = _plain(shared)
                found = as_bytes(piece).cast(pa.binary()) if holds_bytes(piece.type) else None
            yield pa.nulls(len(piece), pa.binary()) if found is None else found

    def _pieces(self, table: str, column: str, rows: Mask | None, at_once: int) -> Iterator[pa.Array]:
        """Return a column of the rows in the mask, in pieces as the file has them; so many rows are decoded at once."""
        table, first = table.lower(), 0
        file, own = self._files.get(table), self._names.get(table, {}).get(column.lower())
        if file is None or own is None:
            count = file.count if file is not None else 0
            yield pa.nulls(count if rows is None else int(rows.sum()), pa.string())
            return
        last = file.count if rows is None else int(np.max(np.flatnonzero(rows), initial=-1)) + 1
        with _refusing(self._paths[table]):
            for (piece,) in file.pieces([own], at_once):
                if first >= last:  # what is asked for often stands at the beginning
                    return
                first += len(piece)
                yield piece if rows is None else piece.filter(pa.array(rows[first - len(piece) : first]))
            check_rows(first, file.count)


_MARK = "\N{HORIZONTAL ELLIPSIS}"


def _cut(texts: pa.Array) -> pa.Array:
    """Return texts cut at `TEXT_LIMIT`, what is no UTF-8 in them replaced; texts that rows share stay shared."""
    if pa.types.is_dictionary(texts.type):
        return pa.DictionaryArray.from_arrays(texts.indices, _cut(texts.dictionary))
    if not holds_bytes(texts.type):
        texts = texts.cast(pa.string())
    try:
        if (pc.max(pc.binary_length(texts)).as_py() or 0) > TEXT_LIMIT:
            sliced = pc.binary_join_element_wise(pc.utf8_slice_codeunits(texts, 0, TEXT_LIMIT - 1), _MARK, "")
            texts = pc.if_else(pc.greater(pc.utf8_length(texts), TEXT_LIMIT), sliced, texts)
        found = texts.cast(pa.string())
        found.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # not UTF-8, or bytes that do not say they are
        found = pa.array([plain_text(value) for value in as_bytes(texts).to_pylist()], pa.string())
    return found


def _integers(file: TableFile, columns: list[str], small: Collection[str]) -> dict[str, Ints]:
    found = {name: Column(file.count, small=name in small, room=_room) for name in columns}
    first = 0
    for piece in file.pieces(columns, _PIECE_ROWS):
        for name, column in zip(columns, piece.columns, strict=True):
            found[name].put(first, _numbers(_plain(column))[: max(file.count - first, 0)])
        first += len(piece)
    check_rows(first, file.count)
    return {name: column.values() for name, column in found.items()}


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
    if column.null_count == len(column):
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
