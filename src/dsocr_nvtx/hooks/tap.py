"""One hooked module: reads the shape of a call, looks its cost up, opens a range around it.

This is the hot path. Per call it reads sizes only (no tensor values, no synchronisation), edits a bound payload in
place, and appends one tuple; costs are computed once per shape. An error in here never reaches the model.
"""

import itertools
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.places import Key, Open, Opened, Place, Priced, Slot, Thread
from dsocr_nvtx.hooks.rows import NO_PARENT, Rows
from dsocr_nvtx.hooks.stage import current_stage
from dsocr_nvtx.schema.payload import FIELD_INDEX, announcement
from dsocr_nvtx.schema.records import Level, Stage

_EVENT, _STEP = FIELD_INDEX["event_id"], FIELD_INDEX["step"]
_CODES = {stage: code for code, stage in enumerate(Stage)}
_VISION, _PREFILL, _DECODE, _UNKNOWN = range(4)


class Counters:
    """What all taps of a session share: the step of each stage, and the round of announcements."""

    REPEAT_EVERY = 32
    """Announcements are repeated after so many steps, so that a capture that begins late still learns every cost."""

    def __init__(self) -> None:
        self.steps = [-1] * len(_CODES)
        self.opened = 0
        self.epoch = 0

    def begin_step(self, stage: int) -> None:
        """Count a step of a stage."""
        self.steps[stage] += 1
        self.opened += 1
        if self.opened % self.REPEAT_EVERY == 0:
            self.epoch += 1


class Tap:
    """Opens and closes the ranges of one place. ``enter`` and ``leave`` are called in pairs, innermost first."""

    MOST_SHAPES = 4096
    """Costs kept per place: a growing KV cache makes a new shape with every token."""

    def __init__(self, place: Place, shared: "Shared") -> None:
        self.place, self.shared = place, shared
        self.slots: list[Slot | None] = [None] * len(_CODES)
        self.priced: dict[Key, Priced] = {}
        self.is_stage = place.level is Level.STAGE
        self.rest: Tap | None = None
        self.number = shared.rows.place_number(place) if shared.rows is not None else 0

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Opened:
        """Open a range; return what ``leave`` needs. After an exception nothing is open that was not before."""
        shared = self.shared
        thread, counters = shared.thread, shared.counters
        if thread.rest is not None:
            close_rest(thread)
        outer = (thread.kv, thread.experts)
        try:
            key = self.place.read(args, kwargs, thread)
            around = thread.open[-1] if thread.open else None
            stage = _CODES[current_stage()]
            if stage == _UNKNOWN:
                stage = self._infer(key, around)
            slot = self.slots[stage] or self._slot(stage)
            if key != slot.key:
                self._hold(slot, key)
            begins = self.is_stage and not any(o.stage == stage and o.place.level is Level.STAGE for o in thread.open)
            if begins:
                counters.begin_step(stage)
            step = max(counters.steps[stage], 0)
            event_id = thread.next_id
            words = slot.words
            words[_EVENT], words[_STEP] = event_id, step
            if self.is_stage or slot.epoch != counters.epoch:
                self._announce(slot)
            event = shared.event() if shared.make_event is not None and (begins or shared.every_event) else None
        except BaseException:
            thread.kv, thread.experts = outer
            raise
        thread.next_id = event_id + 1
        thread.open.append(Open(event_id, stage, self.place))
        shared.emitter.push(slot.attributes)
        parent_id = around.event_id if around else NO_PARENT
        return Opened(event_id, parent_id, slot.number, stage, step, event, outer, perf_counter_ns())

    def leave(self, opened: Opened) -> None:
        """Close the range that ``enter`` opened, keep its row, and open the range of what its container does next."""
        end_ns = perf_counter_ns()
        shared = self.shared
        thread = shared.thread
        try:
            if thread.rest is not None:
                close_rest(thread)
        finally:
            shared.emitter.pop()
            thread.open.pop()
        thread.kv, thread.experts = opened.outer
        if shared.rows is not None:
            events = (opened.event, shared.event()) if opened.event is not None else None
            event_id, parent_id, priced, stage, step, _, _, start_ns = opened
            shared.rows.append(
                (event_id, parent_id, self.number, priced, stage, step, start_ns, end_ns, thread.native_id), events
            )
        if self.rest is not None and thread.open and self._inside_container(thread.open[-1].place):
            thread.rest = (self.rest, self.rest.enter((), {}))

    def rehearse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Price a call without opening anything, so that a later call of its shape finds its cost ready."""
        self.price(self.place.read(args, kwargs, self.shared.thread))

    def price(self, key: Key) -> Priced:
        """Return the cost behind a key."""
        priced = self.priced.get(key)
        if priced is None:
            if len(self.priced) >= self.MOST_SHAPES:
                self.priced.clear()
            priced = self.priced[key] = self.place.price(key)
        return priced

    def _inside_container(self, around: Place) -> bool:
        rest = self.place.rest
        if rest is None or rest.container is None:
            return around.level is Level.STAGE
        return around.path == rest.container

    def _infer(self, key: Key, around: Open | None) -> int:
        if self.place.is_vision:
            return _VISION
        if self.place.is_model:
            shape = self.price(key).shape
            return _DECODE if shape.tokens == 1 and shape.kv_len > 1 else _PREFILL
        return around.stage if around else _UNKNOWN

    def _hold(self, slot: Slot, key: Key) -> None:
        priced, rows = self.price(key), self.shared.rows
        slot.hold(key, priced, rows.priced_number(priced) if rows is not None else 0)

    def _slot(self, stage: int) -> Slot:
        slot = self.slots[stage] = Slot(self.place, stage, self.shared.emitter)
        return slot

    def _announce(self, slot: Slot) -> None:
        if self.shared.emitter.active:
            self.shared.emitter.mark(announcement(self.place.path, slot.words.tolist()))
        slot.epoch = self.shared.counters.epoch


def close_rest(thread: Thread) -> None:
    """Close the open range of a container's own work."""
    assert thread.rest is not None  # noqa: S101 - callers have looked
    tap, opened = thread.rest
    thread.rest = None
    tap.leave(opened)


class Shared:
    """What all taps of a session share."""

    def __init__(
        self, emitter: Emitter, rows: Rows | None, make_event: Callable[[], Any] | None, *, every_event: bool
    ) -> None:
        self.emitter, self.rows, self.make_event, self.every_event = emitter, rows, make_event, every_event
        self.thread = Thread(itertools.count().__next__)
        self.counters = Counters()
        self.muted = False

    def event(self) -> Any:
        """Record a timing event on the current stream."""
        assert self.make_event is not None  # noqa: S101 - callers have looked
        event = self.make_event()
        event.record()
        return event
