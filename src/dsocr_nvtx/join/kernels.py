"""KERNELS of a join, one row per GPU operation: made when it is asked for, and as much of it as is asked for.

Half of its columns are those of the range and of the API call behind an operation. Kept as places in their tables they
take a third of the room, and a table that is written a piece at a time is never in memory whole.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.ingest.source import whole
from dsocr_nvtx.join.attribution import Attribution, Bucket
from dsocr_nvtx.join.classes import classify
from dsocr_nvtx.join.columns import (
    Ints,
    Places,
    as_they_stand,
    dictionary_column,
    nullable,
    numbers,
    sorting,
    values_at,
)
from dsocr_nvtx.join.ranks import Identities
from dsocr_nvtx.schema.tables import KERNELS, conform, is_repeated, repeat
from dsocr_nvtx.schema.values import values_of

_ORDER = ("device", "start_ns", "end_ns", "stream", "correlation_id")
_OF_RANGE = ("event_id", "stage", "step", "path")

_TOGETHER = 1 << 18
"""Rows made at a time where they are written: few enough that their columns stay small beside all else of a join."""

_Taken = Callable[[Places], pa.Array | pa.ChunkedArray]


@frozen(eq=False)
class Kernels:
    """Every GPU operation in time order, and what a join found of it.

    ``known`` holds the columns of KERNELS that are whole already. Per operation: ``owner`` is the row of its range in
    ``ranges`` (MEASURED), ``call`` that of its API call in ``launches``, -1 for none, and ``bucket`` a `Bucket` code.
    """

    known: pa.Table
    ranges: pa.Table
    launches: pa.Table
    owner: Places
    call: Places
    bucket: npt.NDArray[np.int8]

    @classmethod
    def of(
        cls, operations: pa.Table, launches: pa.Table, ranges: pa.Table, found: Attribution, owner: Places,
        busy: Ints, who: Identities,
    ) -> "Kernels":  # fmt: skip
        """Put operations in time order; ``owner`` is a row of ``ranges`` for each, ``busy`` the time each owns."""
        order = sorting(*(as_they_stand(operations, key) for key in _ORDER))
        more = {"busy_owned_ns": busy, **who.columns(numbers(operations, "pid"), numbers(operations, "device"))}
        columns: dict[str, object] = {item.name: operations[item.name] for item in operations.schema}
        known = conform(columns | more, pa.schema([*operations.schema, *(KERNELS.field(name) for name in more)]))
        if not isinstance(order, slice):
            known = known.take(order)
        return cls(known, ranges, launches, owner[order], found.call[order], found.bucket[order])

    def __len__(self) -> int:
        """Return how many operations there are."""
        return len(self.owner)

    @cached_property
    def name(self) -> pa.DictionaryArray:
        """The name of each operation."""
        return dictionary_column(self.known, "name")

    @cached_property
    def classes(self) -> list[tuple[str, str]]:
        """Class and rule of each word of ``name``."""
        return [(str(kind), rule) for kind, rule in map(classify, self.name.dictionary.to_pylist())]

    def table(self) -> pa.Table:
        """Return KERNELS whole."""
        return self._some(slice(0, len(self)), {})

    def batches(self, about: Mapping[str, str]) -> pa.RecordBatchReader:
        """Return KERNELS a piece at a time, with ``about`` in its metadata."""
        return pa.RecordBatchReader.from_batches(self._some(slice(0, 0), about).schema, self._batches(about))

    def _batches(self, about: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        for at in range(0, len(self), _TOGETHER):
            yield from self._some(slice(at, min(at + _TOGETHER, len(self))), about).to_batches()

    def _some(self, rows: slice, about: Mapping[str, str]) -> pa.Table:
        known = self.known.slice(rows.start, rows.stop - rows.start)
        columns: dict[str, object] = {name: known[name] for name in known.column_names}
        columns |= {name: taken(self.owner[rows]) for name, taken in self._of_range.items()}
        columns |= {
            "launch_tid": self._of_call["tid"](self.call[rows]),
            "launch_ns": self._of_call["start_ns"](self.call[rows]),
            "bucket": _worded(self.bucket[rows].astype(np.int32), [str(bucket) for bucket in Bucket]),
        }
        names = values_of(self.name)[rows]
        columns |= {name: _worded(values_at(codes, names), words) for name, (codes, words) in self._of_name.items()}
        return conform(columns, KERNELS, about)

    @cached_property
    def _of_name(self) -> dict[str, tuple[npt.NDArray[np.int32], list[str]]]:
        """Class and rule as (code of each word of ``name``, what codes stand for)."""
        found = {}
        for at, column in enumerate(("class", "rule")):
            code = {word: number for number, word in enumerate(dict.fromkeys(one[at] for one in self.classes))}
            found[column] = np.array([code[one[at]] for one in self.classes], np.int32), list(code)
        return found

    @cached_property
    def _of_range(self) -> dict[str, _Taken]:
        return {name: _taking(self.ranges, name) for name in _OF_RANGE}

    @cached_property
    def _of_call(self) -> dict[str, _Taken]:
        return {name: _taking(self.launches, name) for name in ("tid", "start_ns")}


def _worded(codes: Places, words: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(words, pa.string()))


def _taking(table: pa.Table, name: str) -> _Taken:
    """Return what takes a column, of which no value is null, at some rows; null where there is none (-1)."""
    column = table[name]
    words = dictionary_column(table, name) if pa.types.is_dictionary(column.type) else None
    alike = is_repeated(column) if words is None else len(words.dictionary) == 1
    # Of one value over and over, its first piece says all; the whole would be put together.
    values = values_of(words if words is not None else column.chunk(0) if alike else whole(column))

    def taken(rows: Places) -> pa.Array | pa.ChunkedArray:
        missing = rows < 0
        if alike and not missing.any():
            return repeat(column[0] if words is None else words[0], len(rows))
        found = nullable(values_at(values, np.minimum(rows, 0) if alike else rows), missing)
        return found if words is None else pa.DictionaryArray.from_arrays(found, words.dictionary)

    return taken
