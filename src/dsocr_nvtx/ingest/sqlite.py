"""Reading a stranger's SQLite file: read-only, columns by name, whole numbers into numpy; one clear line on failure."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dsocr_nvtx.errors import Refused

NULL = np.iinfo(np.int64).min
"""Stands for NULL in integer columns; no time, id or size that a tool writes reaches it."""

TEXT_LIMIT = 4096
"""Longest text read from a report: names are labels here, and a hostile one may be a gigabyte."""

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
    """An open SQLite file: its tables, their columns, and whole columns as arrays.

    Every error of SQLite's, a damaged page for instance, becomes a `Refused` that names the file.
    """

    def __init__(self, path: Path) -> None:
        _check_header(path)
        self.path = path
        self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        # Real exports hold text that is not UTF-8 (localised times, protobuf in TEXT columns).
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            # A schema can name functions in views and defaults; a stranger's must not reach them.
            self._connection.execute("PRAGMA trusted_schema = OFF")
            self.columns: dict[str, frozenset[str]] = self._read_columns()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _read_columns(self) -> dict[str, frozenset[str]]:
        names = [name for (name,) in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {n: frozenset(r[0] for r in self.rows("SELECT name FROM pragma_table_info(?)", (n,))) for n in names}

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as cause:
            raise Refused(self.path, f"damaged or unreadable SQLite ({cause})", _REEXPORT) from cause

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a small query."""
        with self._refusing():
            return self._connection.execute(query, values).fetchall()

    def has(self, table: str, *columns: str) -> bool:
        """Say whether a table exists and has all these columns (exports create tables only when there is data)."""
        return table in self.columns and self.columns[table].issuperset(columns)

    def integers(self, table: str, columns: Iterable[str], where: str = "1") -> dict[str, npt.NDArray[np.int64]]:
        """Return integer columns of the rows that satisfy ``where``, in file order.

        NULL, and a column that this version of the format lacks, read as `NULL`; a missing table as no rows. A value
        that is not an integer is refused.
        """
        names = list(columns)
        if table not in self.columns:
            return {name: np.empty(0, np.int64) for name in names}
        parts = [f'COALESCE("{n}", {NULL})' if n in self.columns[table] else str(NULL) for n in names]
        kind = np.dtype([(name, np.int64) for name in names])
        query = f'SELECT {", ".join(parts)} FROM "{table}" WHERE {where}'  # noqa: S608 - our own names only
        with self._refusing():
            try:
                found = np.fromiter(self._connection.execute(query), kind)
            except (TypeError, ValueError, OverflowError) as cause:
                raise Refused(self.path, f"{table} holds values that are not integers", _REEXPORT) from cause
        return {name: np.ascontiguousarray(found[name]) for name in names}

    def texts(self, table: str, identifier: str, text: str) -> dict[int, str]:
        """Return an id -> text table whole, each text cut at `TEXT_LIMIT`."""
        if not self.has(table, identifier, text):
            return {}
        query = f'SELECT "{identifier}", substr("{text}", 1, {TEXT_LIMIT}) FROM "{table}"'  # noqa: S608 - our own names only
        return {key: str(value or "") for key, value in self.rows(query) if isinstance(key, int)}
