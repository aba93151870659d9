"""String ids of a report as dictionary columns, each distinct text once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.ingest.source import NULL, Ints, Number, Source
from dsocr_nvtx.schema.tables import repeat
from dsocr_nvtx.schema.values import values_of


class Names:
    """The ``StringIds`` table: texts by id."""

    def __init__(self, source: Source) -> None:
        ids = source.integers("StringIds", ["id"])["id"]
        texts = source.strings("StringIds", "value") if len(ids) else pa.array([], pa.string())
        self._row = np.argsort(ids, kind="stable")
        self._ids, self._texts = ids[self._row], texts

    def rows(self, identifiers: Ints) -> Ints:
        """Return the row of each id in the table, -1 where it is not there."""
        if not len(self._ids):
            return np.full(len(identifiers), -1)
        place = np.minimum(np.searchsorted(self._ids, identifiers), len(self._ids) - 1)
        return np.where(self._ids[place] == identifiers, self._row[place], -1)

    def of(self, identifiers: Ints) -> list[str]:
        """Return the text of each id; an id without one becomes ``#id``, a text that is NULL is empty."""
        rows = self.rows(identifiers)
        found = self._texts.take(pa.array(rows, mask=rows < 0)).to_pylist() if len(self._ids) else [None] * len(rows)
        return [
            (text or "") if row >= 0 else f"#{identifier}"
            for text, row, identifier in zip(found, rows.tolist(), identifiers.tolist(), strict=True)
        ]

    def starting(self, prefix: str) -> Ints:
        """Return the ids whose text starts so."""
        which = values_of(pc.starts_with(self._texts, prefix).fill_null(False))
        identifiers = np.empty(len(self._row), np.int64)
        identifiers[self._row] = self._ids
        chosen: Ints = identifiers[which]
        return chosen


def distinct(values: npt.NDArray[np.integer[Any]]) -> tuple[Ints, Ints]:
    """Return (sorted distinct values, code of each row): `numpy.unique`, without sorting where values are small."""
    return _distinct(values, np.int64)


def _distinct(values: npt.NDArray[np.integer[Any]], kind: type[Number]) -> tuple[Ints, npt.NDArray[Number]]:
    """Return `distinct`, codes in a type that holds as many as there are rows."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    if high - low > 4 * len(values) + 1024:
        order = np.argsort(values, kind="stable")
        new = np.diff(values[order], prepend=low - 1) != 0
        codes = np.empty(len(values), kind)
        codes[order] = np.cumsum(new) - 1
        return values[order[new]].astype(np.int64), codes
    if high == low:
        return values[:1].astype(np.int64), np.broadcast_to(kind(0), len(values))
    base = 0 if low >= 0 and high <= 4 * len(values) + 1024 else low
    offset = values - base if base else values
    seen = np.zeros(high - base + 1, bool)
    seen[offset] = True
    found = np.flatnonzero(seen)
    code = np.zeros(len(seen), kind)
    code[found] = np.arange(len(found))
    return found + base, code.take(offset)


def words(identifiers: Ints, names: Names | Mapping[int, str]) -> pa.DictionaryArray:
    """Return the texts of string ids as a dictionary column; an id without a text becomes ``#id``."""
    ids, codes = _distinct(identifiers, np.int32)
    if not len(identifiers):
        return dictionary(identifiers, [""])
    texts = names.of(ids) if isinstance(names, Names) else [names.get(int(i), f"#{i}") for i in ids]
    return dictionary(codes, texts)


def dictionary(codes: npt.NDArray[np.signedinteger[Any]], texts: list[str]) -> pa.DictionaryArray:
    """Return codes and their texts as a dictionary column in which equal texts have one code."""
    # Several ids can have one text; equal texts must have one code, or equality by code would be wrong.
    unique = {text: code for code, text in enumerate(dict.fromkeys(texts))}
    recode = np.array([unique[text] for text in texts], np.int32)
    coded = recode.take(codes) if len(unique) < len(texts) else codes.astype(np.int32, copy=False)
    return pa.DictionaryArray.from_arrays(pa.array(coded), pa.array(list(unique), pa.string()))


def constant(word: str, length: int) -> pa.ChunkedArray:
    """Return a dictionary column of one word."""
    return repeat(pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array([word], pa.string()))[0], length)


def labels(identifiers: Ints, plain: pa.Array, names: Names) -> pa.DictionaryArray:
    """Return what events are called: the text of the id, or the plain text of those that have no id, else nothing.

    ``plain`` holds a text for each event without an id, in order.
    """
    unregistered = identifiers == NULL
    if not unregistered.any():
        return words(identifiers, names)
    ids, codes = distinct(identifiers[~unregistered])
    own = plain.fill_null("").dictionary_encode()
    whole = np.empty(len(identifiers), np.int64)
    whole[~unregistered] = codes
    whole[unregistered] = values_of(own).astype(np.int64) + len(ids)
    return dictionary(whole, [*(names.of(ids) if len(codes) else [""] * len(ids)), *own.dictionary.to_pylist()])
