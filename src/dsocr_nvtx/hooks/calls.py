"""Finished calls, kept as whole numbers in one flat array.

A tuple a call would be walked by Python's garbage collector again and again while the model runs, which costs more than
making it. Parents and costs are not stored: parents follow from the times, costs from the kind of forward.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from dsocr_nvtx.hooks.prices import ForwardCosts
from dsocr_nvtx.hooks.sites import Site
from dsocr_nvtx.hooks.threads import Frame
from dsocr_nvtx.schema.records import Stage

_STAGES = tuple(Stage)
_CALL = 4
FIRST_REPLAYED = 1 << 60
"""Calls of replayed graphs are numbered from here; no thread's own numbers reach so far."""


class Call(NamedTuple):
    """One call of a site: its event id, and when it ran."""

    site: Site
    event_id: int
    start_ns: int
    end_ns: int


class Forward(NamedTuple):
    """A forward that has ended, its calls in the order in which they ended."""

    costs: ForwardCosts
    stage: Stage
    step: int
    kv_len: int
    thread_id: int
    captured: bool
    contradicted: bool
    calls: list[Call]


_HEADER = 7


class CallLog:
    """A growing list of forwards with their calls, in the order in which they ended."""

    def __init__(self, kinds: Sequence[ForwardCosts] = (), sites: Sequence[Site] = ()) -> None:
        self._kinds, self.sites = kinds, sites
        self.numbers = array("q")
        """Of each forward a header, and four numbers of every call."""
        self.events: dict[int, tuple[Any, Any]] = {}
        """The timing events around calls, by event id."""

    def keep(self, frame: Frame, thread_id: int) -> None:
        """Add a forward. One addition, so that several threads may add at a time."""
        header = (
            frame.table.costs.number, frame.table.stage_code, frame.step, frame.kv_len, thread_id,
            frame.captured + 2 * frame.contradicted, len(frame.log),
        )  # fmt: skip
        self.numbers.frombytes(frame.log.packed(header))

    def __len__(self) -> int:
        return sum(size // _CALL for *_, size in self._headers())

    def __iter__(self) -> Iterator[Forward]:
        at = 0
        for kind, stage, step, kv_len, thread_id, flags, size in self._headers():
            at += _HEADER
            numbers = self.numbers[at : at + size]
            at += size
            calls = [
                Call(self.sites[numbers[i]], numbers[i + 1], numbers[i + 2], numbers[i + 3])
                for i in range(0, size, _CALL)
            ]
            forward = Forward(
                self._kinds[kind], _STAGES[stage], step, kv_len, thread_id, bool(flags & 1), bool(flags & 2), calls
            )
            yield forward

    @property
    def end(self) -> int:
        """Where the next forward will be added; `since` takes it."""
        return len(self.numbers)

    def since(self, end: int) -> list[Forward]:
        """Return the forwards added since ``end`` was where the log ended."""
        later = CallLog(self._kinds, self.sites)
        later.numbers = self.numbers[end:]
        return list(later)

    def clear(self) -> None:
        """Forget every call."""
        del self.numbers[:]
        self.events.clear()

    def _headers(self) -> Iterator[tuple[int, ...]]:
        at = 0
        while at < len(self.numbers):
            header = tuple(self.numbers[at : at + _HEADER])
            yield header
            at += _HEADER + header[-1]
