"""What all taps of a session share: where ranges go, what is counted, and which forwards are known."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.events import Events
from dsocr_nvtx.hooks.forwards import Forwards
from dsocr_nvtx.hooks.places import State, Threads
from dsocr_nvtx.hooks.quick import QuickFrame
from dsocr_nvtx.hooks.rows import Rows
from dsocr_nvtx.hooks.scripts import ScriptFrame
from dsocr_nvtx.schema.records import Level, Stage

stream_is_capturing: Callable[[], bool] = getattr(torch._C, "_cuda_isCurrentStreamCapturing", lambda: False)
"""Whether calls go into a CUDA graph; never, by a build of torch without CUDA."""

# The one count that outlives a session: event ids are unique in a process, whatever hooks it has had before.
_BLOCKS = itertools.count()


def _never() -> bool:
    return False


def _always() -> bool:
    return True


class Counters:
    """What all taps of a session share: the step of each stage, and the round of announcements."""

    REPEAT_EVERY = 32
    """Announcements are repeated after so many steps, so that a capture that begins late still learns every cost."""

    def __init__(self) -> None:
        self.steps = [-1] * len(Stage)
        self.opened = 0
        self.epoch = 0

    def begin_step(self, stage: int) -> int:
        """Count a step of a stage, and return its number."""
        step = self.steps[stage] = self.steps[stage] + 1
        self.opened += 1
        if self.opened % self.REPEAT_EVERY == 0:
            self.epoch += 1
        return step


class Notes(Protocol):
    """Who wants to know which experts were chosen in forwards whose calls are known."""

    @property
    def wanted(self) -> bool:
        """Whether the next forward is to be noted."""
        ...

    def take(self, frame: QuickFrame | ScriptFrame, notes: list[Any]) -> None:
        """Take what was noted in a forward: number, length of the log and indices, call after call."""
        ...


class Shared:
    """What all taps of a session share."""

    def __init__(
        self, emitter: Emitter, rows: Rows | None, make_event: Callable[[], Any] | None, events: Events
    ) -> None:
        self.emitter, self.rows, self.on_gpu = emitter, rows, make_event is not None
        self.make_event = make_event if events is not Events.NONE else None
        self.every_event = events is Events.RANGES
        self.threads = Threads(_BLOCKS.__next__)
        self.counters = Counters()
        self.muted = False
        self.noted: Notes | None = None
        self.forwards = Forwards(self)
        self._asked: Callable[[], bool] = stream_is_capturing if self.on_gpu else _never
        self.is_capturing = self._asked
        """Whether calls go into a CUDA graph now, the session's or a script's own.

        They run nothing, so they are no step, and an event of theirs tells no time.
        """

    @property
    def capturing(self) -> bool:
        """Whether calls go into the session's own graph."""
        return self.is_capturing is _always

    @contextmanager
    def captured(self) -> Iterator[None]:
        """Say that calls inside the block go into the session's own graph."""
        self.is_capturing = _always
        try:
            yield
        finally:
            self.is_capturing = self._asked

    def begins(self, state: State, stage: int) -> bool:
        """Return whether a call of a stage's own begins a step: no other is around it, and it is not captured."""
        for _, around, place, _ in state.open:
            if around == stage and place.level is Level.STAGE:
                return False
        return not self.is_capturing()

    def first_event(self, *, begins: bool) -> Any:
        """Record the event before a call that begins a step or not; None where its time is not asked for.

        Callers have looked whether events are made at all. Within a capture an event would tell no time.
        """
        return self.event() if begins or (self.every_event and not self.is_capturing()) else None

    def event(self) -> Any:
        """Record a timing event on the current stream and return it."""
        assert self.make_event is not None  # noqa: S101 - callers have looked
        return self.make_event()

    def keep(self, numbers: list[int], event: Any) -> None:
        """Keep a call that has just ended, as `Rows.append` takes it; ``event``: the one before it, or None."""
        if self.rows is None:
            return
        if event is None:
            self.rows.append(numbers)
        else:
            self.rows.append_timed(numbers, (event, self.event()))
