"""Integer columns that come in parts, kept in no more bytes than they need."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dsocr_nvtx.ingest.source import Ints

_Room = Callable[[int, "type[np.signedinteger[Any]]"], npt.NDArray[Any]]

_KINDS: "tuple[tuple[type[np.signedinteger[Any]], int], ...]" = (
    (np.int8, 8), (np.int16, 16), (np.int32, 32), (np.int64, 64),
)  # fmt: skip


def least_kind(low: int, high: int, *, bits: int = 8) -> "type[np.signedinteger[Any]]":
    """Return the smallest type, of so many bits at least, that holds all from ``low`` to ``high``."""
    return next(kind for kind, size in _KINDS if size >= bits and -(1 << size - 1) <= low <= high < 1 << size - 1)


def one_value(value: int, rows: int, *, small: bool) -> Ints:
    """Return a column of one value, which takes no room."""
    return np.broadcast_to(least_kind(value, value, bits=32 if small else 64)(value), (rows,))


class Column:
    """An integer column that comes in parts. One value in all rows takes no room, not even of the address space.

    (Room that was never written to would be handed on by the heap, and then be written to in place of warm memory.)
    A ``small`` column takes 32 bits where its numbers fit, and all others 64.
    """

    def __init__(self, rows: int, *, small: bool = False, room: _Room = np.empty) -> None:
        self._rows, self._small, self._room_of = rows, small, room
        self._whole: npt.NDArray[Any] | None = None
        self._alike: list[tuple[int, int, int]] = []

    def put(self, first: int, values: npt.NDArray[np.integer[Any]]) -> None:
        """Take the values from row ``first`` on."""
        if len(values) and values[0] == values[-1] and (values == values[0]).all():
            self._alike.append((first, first + len(values), int(values[0])))
        elif len(values):
            self._room(values)[first : first + len(values)] = values

    def _room(self, values: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        kind = least_kind(int(values.min()), int(values.max()), bits=32) if self._small else np.int64
        if self._whole is None:
            self._whole = self._room_of(self._rows, kind)
        elif self._whole.itemsize < np.dtype(kind).itemsize:
            self._whole, narrow = self._room_of(self._rows, kind), self._whole
            self._whole[:] = narrow
        return self._whole

    def values(self) -> Ints:
        """Return the column, all parts of which were put."""
        alike = {value for _, _, value in self._alike}
        if self._whole is None and len(alike) <= 1:
            return one_value(next(iter(alike), 0), self._rows, small=self._small)
        for first, last, value in self._alike:
            self._room(np.array([value]))[first:last] = value
        return self._room(np.zeros(1, np.int64))  # which any room holds


def narrowed(values: Ints) -> Ints:
    """Return a whole column as a small one."""
    column = Column(len(values), small=True)
    column.put(0, values)
    return column.values()
