"""Finished calls, kept as whole numbers in one flat array.

A tuple a call would be walked by Python's garbage collector again and again while the model runs, which costs more than
making it: with tens of thousands of calls, collections become the largest part of what hooks cost.
"""

from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dsocr_nvtx.hooks.places import Key, Place, Priced
from dsocr_nvtx.hooks.quick import WIDTH as LOGGED
from dsocr_nvtx.hooks.quick import QuickCall, QuickFrame
from dsocr_nvtx.hooks.scripts import Script, ScriptFrame

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


NO_SCRIPT = -1


class _Repeated(NamedTuple):
    """A forward that repeated the one before, as `dsocr_nvtx.hooks.repeats` logs it; ``first_id`` is its first call's.

    ``logged`` is the length of the log that stands before these numbers.
    """

    event_id: int
    parent_id: int
    code: int
    script: int
    stage: int
    step: int
    kv_len: int
    kv_slots: int
    first_id: int
    thread_id: int
    start_ns: int
    end_ns: int
    logged: int

    @property
    def kv(self) -> tuple[int, int]:
        return self.kv_len, self.kv_slots

    def frame(self, script: Script | None, log: "array[int]") -> QuickFrame | ScriptFrame:
        told = (self.first_id, self.event_id, self.stage, self.step, self.kv, self.thread_id, log)
        return QuickFrame(*told) if script is None else ScriptFrame(script, *told)


_WIDTH = 9


class Rows:
    """A growing table of finished calls."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._places: dict[Place, int] = {}
        self._priced: dict[Priced, int] = {}
        self._events: dict[int, tuple[Any, Any]] = {}
        self._captured: list[range] = []
        self._late: dict[tuple[Place, Key], int] = {}
        self._codes: dict[tuple[Place, Key], int] = {}
        self._frames: list[QuickFrame | ScriptFrame] = []
        self._scripts: list[Script] = []
        self._repeats = array("q")
        self.append: Callable[[list[int]], None] = self._numbers.fromlist
        """Add a call: event, parent (or `NO_PARENT`), place, cost, stage, step, start, end, thread."""
        self.append_repeat: Callable[[list[int]], None] = self._repeats.fromlist
        """Add a forward that repeated the one before: the log of its calls, then the numbers of a `_Repeated`."""

    @property
    def kept(self) -> int:
        """How many calls were kept one by one."""
        return len(self._numbers) // _WIDTH

    def captured_since(self, first: int) -> list[Row]:
        """Note that all calls from the ``first`` kept one on were captured into a CUDA graph, and return them."""
        self._captured.append(range(first, self.kept))
        numbered = self._numbered()
        return [self._row(index, *numbered) for index in self._captured[-1]]

    def place_number(self, place: Place) -> int:
        """Return the number that stands for a place."""
        return self._places.setdefault(place, len(self._places))

    def priced_number(self, priced: Priced) -> int:
        """Return the number that stands for a cost."""
        return self._priced.setdefault(priced, len(self._priced))

    def late_number(self, place: Place, key: Key) -> int:
        """Return a number that stands for the cost behind a key, which is worked out when it is asked for.

        It holds for the whole session, as taps keep it: `clear` does not forget it.
        """
        return self._late.setdefault((place, key), -1 - len(self._late))

    def code(self, place: Place, key: Key) -> int:
        """Return the number by which logs call a place with a key."""
        return self._codes.setdefault((place, key), len(self._codes))

    def script_number(self, script: Script) -> int:
        """Return the number by which repeated forwards call their script; without one it is `NO_SCRIPT`."""
        self._scripts.append(script)
        return len(self._scripts) - 1

    def append_frame(self, frame: QuickFrame | ScriptFrame) -> None:
        """Add the calls of a forward that were only timed."""
        self._frames.append(frame)

    def append_timed(self, row: list[int], events: tuple[Any, Any]) -> None:
        """Add a call as `append` does, with the timing events around it."""
        self._events[self.kept] = events
        self.append(row)

    def clear(self) -> None:
        """Forget every call."""
        del self._numbers[:]
        del self._repeats[:]
        self._events.clear()
        self._captured.clear()
        self._frames.clear()

    def __len__(self) -> int:
        repeats = sum(1 + repeat.logged // LOGGED for repeat, _ in self._repeated())
        return self.kept + repeats + sum(map(len, self._frames))

    def __iter__(self) -> Iterator[Row]:
        kept, numbered = self.kept, self._numbered()
        yield from (self._row(index, *numbered) for index in range(kept))
        known = [QuickCall(*call) for call in self._codes]
        for frame in self._frames:
            yield from _calls(frame, known)
        for repeat, log in self._repeated():
            call, script = known[repeat.code], repeat.script
            yield Row(
                repeat.event_id, None if repeat.parent_id == NO_PARENT else repeat.parent_id, call.place,
                call.place.price(call.key_at(repeat.kv)), repeat.stage, repeat.step, repeat.start_ns, repeat.end_ns,
                repeat.thread_id, None,
            )  # fmt: skip
            yield from _calls(repeat.frame(self._scripts[script] if script != NO_SCRIPT else None, log), known)

    def _repeated(self) -> "Iterator[tuple[_Repeated, array[int]]]":
        """Yield every forward that repeated the one before, with its log, the newest first."""
        end = len(self._repeats)
        while end:
            at = end - len(_Repeated._fields)
            repeat = _Repeated(*self._repeats[at:end])
            end = at - repeat.logged
            yield repeat, self._repeats[end:at]

    def _numbered(self) -> tuple[list[Place], list[Priced], list[tuple[Place, Key]]]:
        return list(self._places), list(self._priced), list(self._late)

    def _row(self, index: int, places: list[Place], costs: list[Priced], late: list[tuple[Place, Key]]) -> Row:
        event, parent, place, priced, stage, step, start, end, thread = self._numbers[
            index * _WIDTH : (index + 1) * _WIDTH
        ]
        origin = "captured" if any(index in captured for captured in self._captured) else "call"
        return Row(
            event, None if parent == NO_PARENT else parent, places[place], _cost(priced, costs, late), stage, step,
            start, end, thread, self._events.get(index), origin,
        )  # fmt: skip


def _calls(frame: QuickFrame | ScriptFrame, known: list[QuickCall]) -> Iterator[Row]:
    for event, parent, code, start, end in frame.calls():
        call = known[code]
        yield Row(
            event, parent, call.place, call.place.price(call.key_at(frame.kv)), frame.stage, frame.step, start, end,
            frame.thread_id, None,
        )  # fmt: skip


def _cost(number: int, costs: list[Priced], late: list[tuple[Place, Key]]) -> Priced:
    if number >= 0:
        return costs[number]
    place, key = late[-1 - number]
    return place.price(key)
