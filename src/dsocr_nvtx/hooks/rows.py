"""Finished calls, kept as whole numbers in one flat array.

A tuple a call would be walked by Python's garbage collector again and again while the model runs, which costs more than
making it: with tens of thousands of calls, collections become the largest part of what hooks cost.
"""

from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

from dsocr_nvtx.hooks.places import Place, Priced

NO_PARENT = -1
FIRST_REPLAYED = 1 << 60
"""Calls of replayed graphs are numbered from here; no thread's own numbers reach so far."""


class Row(NamedTuple):
    """A finished call; `dsocr_nvtx.hooks.stats` turns it into a `RangeRecord`."""

    event_id: int
    parent_id: int | None
    place: Place
    priced: Priced
    stage: int
    step: int
    start_ns: int
    end_ns: int
    thread_id: int
    events: tuple[Any, Any] | None
    origin: str = "call"


class Rows:
    """A growing table of finished calls, in the order in which they ended."""

    WIDTH = 9

    def __init__(self) -> None:
        self._numbers = array("q")
        self._places: dict[Place, int] = {}
        self._priced: dict[Priced, int] = {}
        self._events: dict[int, tuple[Any, Any]] = {}
        self._captured: list[range] = []

    def captured_since(self, first: int) -> list[Row]:
        """Note that all calls from row ``first`` on were captured into a CUDA graph, and return them."""
        self._captured.append(range(first, len(self)))
        return [self._row(index, list(self._places), list(self._priced)) for index in self._captured[-1]]

    def place_number(self, place: Place) -> int:
        """Return the number that stands for a place."""
        return self._places.setdefault(place, len(self._places))

    def priced_number(self, priced: Priced) -> int:
        """Return the number that stands for a cost."""
        return self._priced.setdefault(priced, len(self._priced))

    def append(self, numbers: tuple[int, ...], events: tuple[Any, Any] | None) -> None:
        """Add a call: event, parent (or `NO_PARENT`), place, cost, stage, step, start, end, thread."""
        if events is not None:
            self._events[len(self)] = events
        self._numbers.extend(numbers)

    def clear(self) -> None:
        """Forget every call."""
        del self._numbers[:]
        self._events.clear()
        self._captured.clear()

    def __len__(self) -> int:
        return len(self._numbers) // self.WIDTH

    def __iter__(self) -> Iterator[Row]:
        places, costs = list(self._places), list(self._priced)
        return (self._row(index, places, costs) for index in range(len(self)))

    def _row(self, index: int, places: list[Place], costs: list[Priced]) -> Row:
        event, parent, place, priced, stage, step, start, end, thread = self._numbers[
            index * self.WIDTH : (index + 1) * self.WIDTH
        ]
        origin = "captured" if any(index in captured for captured in self._captured) else "call"
        return Row(
            event, None if parent == NO_PARENT else parent, places[place], costs[priced], stage, step, start, end,
            thread, self._events.get(index), origin,
        )  # fmt: skip
