"""One SQLite table's columns from its pages: where the schema puts each column, and what stands there."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.ingest import cells, pages
from dsocr_nvtx.ingest.column import Column
from dsocr_nvtx.ingest.source import NULL, Ints, Mask, product
from dsocr_nvtx.ingest.texts import blob_array, plain_text, text_array

_ROWID = -1
_MOST_OVERFLOWING = 4096
"""Values on overflow pages are asked for one by one; so many, and the whole column is."""


@frozen
class Layout:
    """Where a table's columns are stored, by lower-case name. ``plain``: in the schema's order, in a tree with rowids.

    ``name`` and ``columns`` are as the schema spells them.
    """

    name: str
    columns: tuple[str, ...]
    root: int
    positions: dict[str, int]
    defaulted: frozenset[str]
    has_rowid: bool
    plain: bool

    @classmethod
    def read(cls, table: str, root: object, sql: str, columns: Sequence[tuple[object, ...]]) -> "Layout":
        """Read (name, type, key, hidden, default) rows. A lone INTEGER PRIMARY KEY is another name of the rowid."""
        keys = [name for name, _, key, _, _ in columns if key]
        upper = sql.upper()
        alias = {n for n, kind, key, _, _ in columns if key and len(keys) == 1 and str(kind).upper() == "INTEGER"}
        has_rowid = "WITHOUT ROWID" not in upper
        # PRIMARY KEY DESC is, by an old mistake that is kept, no other name of the rowid.
        plain = has_rowid and not any(row[3] for row in columns) and not (alias and " DESC" in upper)
        positions = {str(row[0]).lower(): _ROWID if row[0] in alias else at for at, row in enumerate(columns)}
        defaulted = frozenset(str(row[0]).lower() for row in columns if row[4] is not None)
        page = root if isinstance(root, int) else 0
        named = tuple(str(row[0]) for row in columns)
        return cls(table, named, page, positions, defaulted, has_rowid, plain and page > 1)

    def has(self, column: str) -> bool:
        """Say whether the table has a column of this name, however it is spelt."""
        return column.lower() in self.positions


@frozen(eq=False)
class PageColumns:
    """Reads whole columns of one table. ``fetch`` returns one value by (column, rowid), for what overflows a page."""

    file: pages.PageFile
    layout: Layout
    parts: pages.Parts
    fetch: Callable[[str, int], object]

    def integers(self, names: Sequence[str], small: Collection[str]) -> dict[str, Ints]:
        """Return integer columns, NULL as `NULL`; those that are ``small`` in 32 bits where they fit."""
        factors = {name: parts for name in names if all(map(self.layout.has, parts := name.split("*")))}
        at = {part: self.layout.positions[part.lower()] for parts in factors.values() for part in parts}
        found = {name: Column(self.parts.rows, small=name in small) for name in factors}

        def parse(chunk: cells.Chunk, first: int) -> None:
            stored = cells.fields(chunk, [p for p in at.values() if p != _ROWID])
            self._refuse_defaults(stored, at)
            for name, parts in factors.items():
                found[name].put(first, product([_values(chunk, stored, at[part]) for part in parts]))

        deque(pages.chunks(self.file, self.parts, parse), maxlen=0)
        missing = np.broadcast_to(np.int64(NULL), (self.parts.rows,))
        return {name: found[name].values() if name in found else missing for name in names}

    def _refuse_defaults(self, stored: dict[int, tuple[cells.Kinds, Ints]], at: dict[str, int]) -> None:
        for name in at:
            if name.lower() in self.layout.defaulted and (stored[at[name]][0] < 0).any():
                raise cells.NotPlain("a default stands for a missing value")

    def values(self, name: str, rows: Mask | None, kind: pa.DataType) -> Iterator[pa.Array]:
        """Return a text or binary column of the rows in the mask, in pieces."""
        position = self.layout.positions[name.lower()]
        if position == _ROWID:
            raise cells.NotPlain("a rowid is no text")
        binary = pa.types.is_binary(kind)

        def parse(chunk: cells.Chunk, first: int) -> tuple[pa.Array, dict[int, int]]:
            stored = cells.fields(chunk, [position])
            self._refuse_defaults(stored, {name: position})
            code, place = stored[position]
            place, length = cells.spans(chunk, code, place)
            if binary:
                length = np.where(code & 1, -1, length)
            if rows is not None:
                mine = rows[first : first + len(length)]
                if len(mine) != len(length):
                    raise cells.NotPlain("the table grew")
                place, length, rowid = place[mine], length[mine], chunk.rowid[mine]
            else:
                rowid = chunk.rowid
            over = np.flatnonzero(length == -2)
            make = blob_array if binary else text_array
            return make(chunk.flat, place, length), dict(zip(over.tolist(), rowid[over].tolist(), strict=True))

        wanted = self.parts if rows is None else self.parts.holding(rows)
        asked = 0
        for array, over in pages.chunks(self.file, wanted, parse):
            asked += len(over)
            if asked > _MOST_OVERFLOWING:
                raise cells.NotPlain("many values on overflow pages")
            yield self._patched(name, array, over)

    def _patched(self, name: str, array: pa.Array, over: dict[int, int]) -> pa.Array:
        if not over:
            return array
        values = array.to_pylist()
        for index, rowid in over.items():
            value = self.fetch(name, rowid)
            values[index] = value if pa.types.is_binary(array.type) else plain_text(value)
        return pa.array(values, array.type)


def _values(chunk: cells.Chunk, stored: dict[int, tuple[cells.Kinds, Ints]], position: int) -> Ints:
    return chunk.rowid if position == _ROWID else cells.integers(chunk, *stored[position], NULL)
