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
from dsocr_nvtx.ingest.limits import limited
from dsocr_nvtx.ingest.source import NULL, Ints, Mask, product, whole
from dsocr_nvtx.ingest.sqlite_opening import REEXPORT, QuickCheck, check_header, connect, undisturbed
from dsocr_nvtx.ingest.sqlite_pages import Layout, PageColumns
from dsocr_nvtx.ingest.texts import decoded, plain_text


class SqliteFile:
    """An open SQLite file as a `dsocr_nvtx.ingest.source.Source`; rows come in the order of their rowid.

    Every error of SQLite's, a damaged page for instance, becomes a `Refused` that names the file, and so does what
    SQLite's quick check finds wrong with it: when the block ends, or when that of ``later`` does, if it is given.
    ``fast``: take columns from pages where they are plain.
    """

    shared = False
    """A connection belongs to the thread that made it."""

    def __init__(self, path: Path, *, fast: bool = True, later: ExitStack | None = None) -> None:
        check_header(path)
        self.path = path
        self._later = later
        self._closing = ExitStack()
        self._parts: dict[str, pages.Parts] = {}
        self._pages: pages.PageFile | None = None
        try:
            with self._refusing():
                self._read = undisturbed(path, self._closing)
                self._connection = connect(self._read, copied=self._read is not path)
            self._closing.callback(self._connection.close)
            # A schema can name functions in views and defaults; a stranger's must not reach them.
            self._connection.execute("PRAGMA trusted_schema = OFF")
            self._layouts, self._views = self._read_layouts()
            if fast and self._read is path:
                with suppress(cells.NotPlain):
                    self._pages = self._closing.enter_context(pages.PageFile.open(path))
        except BaseException:
            self._closing.close()
            raise
        self.columns = {layout.name: frozenset(layout.columns) for layout in self._layouts.values()}

    def __enter__(self) -> Self:
        with self._refusing():
            check = QuickCheck(self.path, self._read)
        (self._closing if self._later is None else self._later).push(check)
        return self

    def __exit__(self, *error: Any) -> None:
        self._closing.__exit__(*error)

    def _read_layouts(self) -> tuple[dict[str, Layout], frozenset[str]]:
        """Return the layouts of all tables, and the names of views, by lower-case name: SQL does not tell case."""
        about = "SELECT name, type, pk, hidden, dflt_value FROM pragma_table_xinfo(?)"
        layouts, views = {}, set[str]()
        for kind, name, root, sql in self.rows("SELECT type, name, rootpage, sql FROM sqlite_master"):
            if kind == "table":
                layouts[str(name).lower()] = Layout.read(str(name), root, str(sql), self.rows(about, (name,)))
            elif kind == "view":
                views.add(str(name).lower())
        return layouts, frozenset(views)

    def _layout(self, table: str) -> Layout | None:
        name = table.lower()
        if name in self._views:
            remedy = f"give the table itself that name, or {REEXPORT}"
            raise Refused(self.path, f"{table} is a view, whose rows have no order of their own", remedy)
        return self._layouts.get(name)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, pa.ArrowException, UnicodeDecodeError) as cause:  # SQLite may quote what is no UTF-8
            raise Refused(self.path, f"damaged or unreadable SQLite ({cause})", REEXPORT) from cause

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a small query, bytes as text."""
        with self._refusing():
            return [tuple(map(_word, row)) for row in self._connection.execute(query, values)]

    def has(self, table: str, *columns: str) -> bool:
        """Say whether a table exists and has all these columns (exports create tables only when there is data)."""
        layout = self._layout(table)
        return layout is not None and all(layout.has(column) for column in columns)

    def integers(self, table: str, columns: Sequence[str], small: Collection[str] = ()) -> dict[str, Ints]:
        """Return whole integer columns, NULL as `NULL`; a value that is not an integer is refused."""
        names = list(dict.fromkeys(columns))
        layout = self._layout(table)
        if layout is None:
            return {name: np.empty(0, np.int64) for name in names}
        with suppress(cells.NotPlain):
            return self._reader(layout).integers(names, small)
        plain = self._integers(layout, list(dict.fromkeys(part for name in names for part in name.split("*"))))
        found = {name: product([plain[part] for part in name.split("*")]) for name in names}
        return {name: narrowed(values) if name in small else values for name, values in found.items()}

    def strings(self, table: str, column: str, rows: Mask | None = None) -> pa.Array:
        """Return a text column of the rows in the mask, cut and made UTF-8."""
        pieces = limited(self.path, f"{table}.{column}", self._values(table, column, rows, pa.string()))
        return whole(pa.chunked_array(list(pieces), pa.string()))

    def blobs(self, table: str, column: str, rows: Mask | None = None) -> Iterator[pa.Array]:
        """Return a column of the rows in the mask as bytes, in pieces; null for NULL and for what is not a blob."""
        return self._values(table, column, rows, pa.binary())

    def _reader(self, layout: Layout) -> PageColumns:
        """Return what reads the table's pages; it, too, raises `NotPlain` where SQLite must read them."""
        if self._pages is None or not layout.plain:
            raise cells.NotPlain("not a table in the order of its schema")
        if layout.name not in self._parts:
            self._parts[layout.name] = pages.parts_of(self._pages, layout.root)
        return PageColumns(self._pages, layout, self._parts[layout.name], partial(self._value, layout.name))

    def _value(self, table: str, column: str, rowid: int) -> object:
        query = f"SELECT {_quoted(column)} FROM {_quoted(table)} WHERE rowid = ?"  # noqa: S608 - quoted
        with self._refusing():
            (value,) = self._connection.execute(query, (rowid,)).fetchone()
        return value

    def _integers(self, layout: Layout, names: list[str]) -> dict[str, Ints]:
        parts = [_strict(name) if layout.has(name) else str(NULL) for name in names]
        kind = np.dtype([(name, np.int64) for name in names])
        query = f"SELECT {', '.join(parts)} {_from(layout)}"
        with self._refusing():
            try:
                found = np.fromiter(self._connection.execute(query), kind)
            except UnicodeDecodeError:
                raise
            except ValueError as cause:
                raise Refused(self.path, f"{layout.name} holds values that are not integers", REEXPORT) from cause
        return {name: np.ascontiguousarray(found[name]) for name in names}

    def _values(self, table: str, column: str, rows: Mask | None, kind: pa.DataType) -> Iterator[pa.Array]:
        layout = self._layout(table)
        if layout is None or not layout.has(column):
            count = len(self.integers(table, ["rowid"])["rowid"]) if rows is None else int(rows.sum())
            yield pa.nulls(count, kind)
            return
        done = 0
        try:
            for piece in self._reader(layout).values(column, rows, kind):
                done += len(piece)
                yield piece
        except cells.NotPlain:  # whose rows SQLite has in the same order
            yield self._asked(layout, column, rows, kind)[done:]

    def _asked(self, layout: Layout, column: str, rows: Mask | None, kind: pa.DataType) -> pa.Array:
        take, name = _blob if pa.types.is_binary(kind) else plain_text, _quoted(column)
        value = f"CASE typeof({name}) WHEN 'blob' THEN {name} END" if take is _blob else name
        query = f"SELECT {value} {_from(layout)}"
        with self._refusing():
            every = self._connection.execute(query)
            wanted = every if rows is None else compress(every, rows.tolist())
            return pa.array((take(one) for (one,) in wanted), kind)


def _from(layout: Layout) -> str:
    # An index made by a third party can offer SQLite another order than that of the pages.
    return f"FROM {_quoted(layout.name)} {'ORDER BY rowid' if layout.has_rowid else ''}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _strict(name: str) -> str:
    name = _quoted(name)
    return f"CASE typeof({name}) WHEN 'integer' THEN {name} WHEN 'null' THEN {NULL} ELSE 'none' END"


def _blob(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None


def _word(value: object) -> object:
    return decoded(value) if isinstance(value, bytes) else value
