"""Reading a stranger's SQLite file: read-only, columns by name, whole columns as arrays; one clear line on failure.

Columns are taken from the file's pages (`dsocr_nvtx.ingest.pages`) where those are plain, else through SQLite itself,
several times slower and always right.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest import cells, pages
from dsocr_nvtx.ingest.column import narrowed
from dsocr_nvtx.ingest.source import NULL, Ints, Mask, product, whole
from dsocr_nvtx.ingest.sqlite_pages import Layout, PageColumns
from dsocr_nvtx.ingest.texts import decoded, plain_text

_LONGEST_VALUE = 1 << 26
"""SQLite reads no longer text or blob than this for us: a hostile one may be a gigabyte."""

_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100
_REEXPORT = "export it again: nsys export -t sqlite REPORT.nsys-rep"


def _check_header(path: Path) -> None:
    if not path.exists():
        raise Refused(path, "no such file", "give the path of a report")
    if not path.is_file():
        raise Refused(path, "not a regular file", "give the path of a report file")
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEADER_BYTES)
    except OSError as cause:
        raise Refused(path, f"cannot be read ({cause.strerror})", "check its permissions") from cause
    if not head:
        raise Refused(path, "empty file", _REEXPORT)
    if not head.startswith(_MAGIC):
        raise Refused(path, "not a SQLite file", f"give a .nsys-rep, or {_REEXPORT}")
    if _is_cut_short(head, path.stat().st_size):
        raise Refused(path, "damaged: the file is shorter than its header says", _REEXPORT)


def _is_cut_short(head: bytes, length: int) -> bool:
    # SQLite reads a last page of which a part is missing as if that part were zeros, and says nothing.
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    pages = int.from_bytes(head[28:32], "big") if head[24:28] == head[92:96] else 0  # else it is not kept up to date
    return page >= 512 and (length % page != 0 or length < page * pages)


class SqliteFile:
    """An open SQLite file as a `dsocr_nvtx.ingest.source.Source`; rows come in the order of their rowid.

    Every error of SQLite's, a damaged page for instance, becomes a `Refused` that names the file. ``fast``: take
    columns from pages where they are plain.
    """

    shared = False
    """A connection belongs to the thread that made it."""

    def __init__(self, path: Path, *, fast: bool = True) -> None:
        _check_header(path)
        self.path = path
        self._closing = ExitStack()
        self._parts: dict[str, pages.Parts] = {}
        self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        self._closing.callback(self._connection.close)
        # Real exports hold text that is not UTF-8 (localised times, protobuf in TEXT columns).
        self._connection.text_factory = bytes
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        try:
            # A schema can name functions in views and defaults; a stranger's must not reach them.
            self._connection.execute("PRAGMA trusted_schema = OFF")
            self._layouts = self._read_layouts()
            self._pages = self._closing.enter_context(pages.PageFile.open(path)) if fast else None
        except cells.NotPlain:
            self._pages = None
        except BaseException:
            self._closing.close()
            raise
        self.columns = {table: frozenset(layout.positions) for table, layout in self._layouts.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _read_layouts(self) -> dict[str, Layout]:
        tables = self.rows("SELECT name, rootpage, sql FROM sqlite_master WHERE type = 'table'")
        about = "SELECT name, type, pk, hidden, dflt_value FROM pragma_table_xinfo(?)"
        return {str(n): Layout.read(root, str(sql), self.rows(about, (n,))) for n, root, sql in tables}

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, pa.ArrowException) as cause:
            raise Refused(self.path, f"damaged or unreadable SQLite ({cause})", _REEXPORT) from cause

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a small query, bytes as text."""
        with self._refusing():
            return [tuple(map(_word, row)) for row in self._connection.execute(query, values)]

    def has(self, table: str, *columns: str) -> bool:
        """Say whether a table exists and has all these columns (exports create tables only when there is data)."""
        return table in self.columns and self.columns[table].issuperset(columns)

    def integers(self, table: str, columns: Sequence[str], small: Collection[str] = ()) -> dict[str, Ints]:
        """Return whole integer columns, NULL as `NULL`; a value that is not an integer is refused."""
        names = list(dict.fromkeys(columns))
        if table not in self.columns:
            return {name: np.empty(0, np.int64) for name in names}
        with suppress(cells.NotPlain):
            return self._reader(table).integers(names, small)
        plain = self._integers(table, list(dict.fromkeys(part for name in names for part in name.split("*"))))
        found = {name: product([plain[part] for part in name.split("*")]) for name in names}
        return {name: narrowed(values) if name in small else values for name, values in found.items()}

    def strings(self, table: str, column: str, rows: Mask | None = None) -> pa.Array:
        """Return a text column of the rows in the mask, cut and made UTF-8."""
        return whole(pa.chunked_array(list(self._values(table, column, rows, pa.string())), pa.string()))

    def blobs(self, table: str, column: str, rows: Mask | None = None) -> Iterator[pa.Array]:
        """Return a column of the rows in the mask as bytes, in pieces; null for NULL and for what is not a blob."""
        return self._values(table, column, rows, pa.binary())

    def _reader(self, table: str) -> PageColumns:
        """Return what reads the table's pages; it, too, raises `NotPlain` where SQLite must read them."""
        layout = self._layouts[table]
        if self._pages is None or not layout.plain:
            raise cells.NotPlain("not a table in the order of its schema")
        if table not in self._parts:
            self._parts[table] = pages.parts_of(self._pages, layout.root)
        return PageColumns(self._pages, layout, self._parts[table], partial(self._value, table))

    def _value(self, table: str, column: str, rowid: int) -> object:
        query = f'SELECT "{column}" FROM "{table}" WHERE rowid = ?'  # noqa: S608 - our own names only
        with self._refusing():
            (value,) = self._connection.execute(query, (rowid,)).fetchone()
        return value

    def _order(self, table: str) -> str:
        # An index made by a third party can offer SQLite another order than that of the pages.
        return "ORDER BY rowid" if self._layouts[table].has_rowid else ""

    def _integers(self, table: str, names: list[str]) -> dict[str, Ints]:
        parts = [_strict(name) if name in self.columns[table] else str(NULL) for name in names]
        kind = np.dtype([(name, np.int64) for name in names])
        query = f'SELECT {", ".join(parts)} FROM "{table}" {self._order(table)}'  # noqa: S608 - our own names only
        with self._refusing():
            try:
                found = np.fromiter(self._connection.execute(query), kind)
            except ValueError as cause:
                raise Refused(self.path, f"{table} holds values that are not integers", _REEXPORT) from cause
        return {name: np.ascontiguousarray(found[name]) for name in names}

    def _values(self, table: str, column: str, rows: Mask | None, kind: pa.DataType) -> Iterator[pa.Array]:
        if not self.has(table, column):
            count = len(self.integers(table, ["rowid"])["rowid"]) if rows is None else int(rows.sum())
            yield pa.nulls(count, kind)
            return
        done = 0
        try:
            for piece in self._reader(table).values(column, rows, kind):
                done += len(piece)
                yield piece
        except cells.NotPlain:  # whose rows SQLite has in the same order
            yield self._asked(table, column, rows, kind)[done:]

    def _asked(self, table: str, column: str, rows: Mask | None, kind: pa.DataType) -> pa.Array:
        take = _blob if pa.types.is_binary(kind) else plain_text
        value = f'CASE typeof("{column}") WHEN \'blob\' THEN "{column}" END' if take is _blob else f'"{column}"'
        query = f'SELECT {value} FROM "{table}" {self._order(table)}'  # noqa: S608 - our own names only
        with self._refusing():
            every = self._connection.execute(query)
            wanted = every if rows is None else compress(every, rows.tolist())
            return pa.array([take(one) for (one,) in wanted], kind)


def _strict(name: str) -> str:
    return f"CASE typeof(\"{name}\") WHEN 'integer' THEN \"{name}\" WHEN 'null' THEN {NULL} ELSE 'none' END"


def _blob(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None


def _word(value: object) -> object:
    return decoded(value) if isinstance(value, bytes) else value
