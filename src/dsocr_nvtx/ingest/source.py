"""What every file format of a report looks like to the readers: tables of columns, by name, with rows in one order."""

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Number = TypeVar("Number", bound=np.integer[Any])
Scalar = TypeVar("Scalar", bound=np.generic)
Read = TypeVar("Read")

NULL = int(np.iinfo(np.int64).min)
"""Stands for NULL in integer columns; no time, id or size that a tool writes reaches it."""

TEXT_LIMIT = 4096
"""Longest text read from a report, in characters: names are labels here, and a hostile one may be a gigabyte."""


class Source(Protocol):
    """An open report. A table or a column that this report lacks reads as no rows, or as NULL in every row.

    Rows of a table come in the same order whatever is asked for, so that positions and masks carry over.
    """

    @property
    def path(self) -> Path:
        """The report, for messages."""
        ...

    @property
    def columns(self) -> Mapping[str, frozenset[str]]:
        """The columns of every table."""
        ...

    @property
    def shared(self) -> bool:
        """Whether threads may read at the same time."""
        ...

    def has(self, table: str, *columns: str) -> bool:
        """Say whether a table exists and has all these columns (exports create tables only when there is data)."""
        ...

    def integers(self, table: str, columns: Sequence[str], small: Collection[str] = ()) -> dict[str, Ints]:
        """Return whole integer columns, NULL as `NULL`; a value that is not an integer is refused.

        Those that are ``small`` come as 32 bits where all of the column fits. A name like ``a*b`` is the product of two
        columns, so that only the product need be kept; NULL in one, or a column that is not there, makes it NULL.
        """
        ...

    def strings(self, table: str, column: str, rows: Mask | None = None) -> pa.Array:
        """Return a text column of the rows in the mask, cut at `TEXT_LIMIT`; bytes that are no UTF-8 are replaced."""
        ...

    def blobs(self, table: str, column: str, rows: Mask | None = None) -> Iterator[pa.Array]:
        """Return a column of the rows in the mask as bytes, in pieces; null for NULL and for what is not a blob."""
        ...


class Begin(Protocol):
    """Begins to read something; the result says what was read, and waits for it."""

    def __call__(self, read: Callable[[], Read], /) -> Callable[[], Read]:
        """Begin."""
        ...


@contextmanager
def side_by_side(report: Source) -> Iterator[Begin]:
    """Yield what reads parts of a report: each in a thread where they may share it, else when it is asked for.

    A part may ask for one that has begun before it.
    """
    if not report.shared:
        yield cache
        return
    # Even one would do: what a part asks for has been taken up before it.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield lambda read: threads.submit(read).result


def mapped(function: Callable[[Ints], npt.NDArray[Scalar]], values: Ints) -> npt.NDArray[Scalar]:
    """Return a function of each value; of one value that stands in every row and takes no room, another such."""
    if values.strides == (0,) and len(values):
        return np.broadcast_to(function(values[:1]), len(values))
    return function(values)


def whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; one in one piece is not copied (`combine_chunks` always copies)."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def product(factors: Sequence[Ints]) -> Ints:
    """Return the product of columns of sizes; a lone column is itself.

    It is `NULL` where one of them is, or is negative, or where the product does not fit 64 bits. Columns of one value,
    which take no room, are multiplied first; by 1 and by each other nothing is made.
    """
    if len(factors) == 1:
        return factors[0]
    alike = [factor for factor in factors if factor.strides == (0,) and len(factor)]
    others = [factor for factor in factors if factor.strides != (0,) or not len(factor)]
    if alike:
        one = _product([int(factor[0]) for factor in alike])
        if not others or one == NULL:
            return np.broadcast_to(np.int64(one), len(factors[0]))
        others = others if one == 1 else [*others, np.broadcast_to(np.int64(one), len(factors[0]))]
    if not _fits([(int(factor.min()), int(factor.max())) for factor in others if len(factor)]):
        return np.array([_product(row) for row in zip(*(factor.tolist() for factor in others), strict=True)], np.int64)
    found: Ints = others[0]
    for factor in others[1:]:
        found = np.multiply(found, factor, dtype=np.int64)
    return found


def _fits(extents: Sequence[tuple[int, int]]) -> bool:
    """Say whether no number is negative, and the product of the largest fits."""
    return all(low >= 0 for low, _ in extents) and math.prod(high for _, high in extents) < 1 << 63


def _product(values: Sequence[int]) -> int:
    return math.prod(values) if _fits([(value, value) for value in values]) else NULL
