"""One hooked module: reads the shape of a call, looks its cost up, opens a range around it.

This is the hot path. Per call it reads sizes only (no tensor values, no synchronisation), edits a bound payload in
place, and appends one tuple; costs are computed once per shape. An error in here never reaches the model.
"""

from collections.abc import Callable
from threading import get_native_id, local
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
from attrs import frozen

from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.stage import current_stage
from dsocr_nvtx.schema.payload import FIELD_INDEX, PAYLOAD_FIELDS, announcement
from dsocr_nvtx.schema.records import COST_FIELDS, DTYPE_BYTES, CallShape, Cost, LayerKind, Level, Stage, code_of

_EVENT, _STEP, _FIRST_COST = FIELD_INDEX["event_id"], FIELD_INDEX["step"], FIELD_INDEX[COST_FIELDS[0]]
_CODES = {stage: code for code, stage in enumerate(Stage)}
_VISION, _PREFILL, _DECODE, _UNKNOWN = range(4)

Key = tuple[Any, ...]


@frozen
class Priced:
    """A call's shape with what it costs; ``own_activation_bytes`` as in `RangeRecord`."""

    shape: CallShape
    cost: Cost
    own_activation_bytes: int


NOTHING = Priced(CallShape(), Cost(), 0)


@frozen(kw_only=True)
class Place:
    """Where a tap sits in the network, and how its calls are read and priced.

    ``read`` turns a call's arguments into the key that its cost depends on; ``price`` turns the key into a cost.
    ``is_vision`` and ``is_model`` say how the stage is inferred where nobody set one.
    """

    path: str
    kind: LayerKind
    level: Level
    layer: int | None
    read: Callable[[tuple[Any, ...], dict[str, Any], "Thread"], Key]
    price: Callable[[Key], Priced]
    is_vision: bool = False
    is_model: bool = False
    dtype: str = "bfloat16"


class Open(NamedTuple):
    """A range that is open on a thread."""

    event_id: int
    stage: int
    is_stage: bool


class Row(NamedTuple):
    """A finished call, as cheap to make as possible; `dsocr_nvtx.hooks.stats` turns it into a `RangeRecord`."""

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


class Thread(local):
    """What a thread has open. Event ids of different threads lie in different blocks of 2**40, so they never meet."""

    def __init__(self, taken: Callable[[], int]) -> None:
        self.next_id = taken() << 40
        self.native_id = get_native_id()
        self.open: list[Open] = []
        self.kv: tuple[int, int] | None = None
        self.experts: str | None = None


class Slot:
    """A tap in one stage: its bound range attributes, its payload, and the key that the payload holds now."""

    __slots__ = ("array", "attributes", "epoch", "key", "priced", "words")

    def __init__(self, place: Place, stage: int, emitter: Emitter) -> None:
        self.array = np.zeros(len(PAYLOAD_FIELDS), "<i8")
        self.words = self.array.data  # a flat view: writing an element takes a third of what numpy's own takes
        self.key: Key | None = None
        self.priced = NOTHING
        self.epoch = -1
        self.words[FIELD_INDEX["stage"]] = stage
        self.words[FIELD_INDEX["layer"]] = -1 if place.layer is None else place.layer
        self.words[FIELD_INDEX["kind"]] = code_of(place.kind)
        self.words[FIELD_INDEX["level"]] = code_of(place.level)
        self.words[FIELD_INDEX["dtype"]] = list(DTYPE_BYTES).index(place.dtype)
        self.attributes = emitter.prepare(place.path, stage, self.array)

    def hold(self, key: Key, priced: Priced) -> None:
        """Put another call's cost into the payload; it is announced before the next push."""
        shape, words = priced.shape, self.words
        words[FIELD_INDEX["batch"]] = shape.batch
        words[FIELD_INDEX["tokens"]] = shape.tokens
        words[FIELD_INDEX["kv_len"]] = shape.kv_len
        for index, name in enumerate(COST_FIELDS, _FIRST_COST):
            words[index] = getattr(priced.cost, name)
        words[FIELD_INDEX["own_activation_bytes"]] = priced.own_activation_bytes
        self.key, self.priced, self.epoch = key, priced, -1


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

    def __init__(
        self, place: Place, emitter: Emitter, thread: Thread, counters: Counters, rows: list[Row] | None,
        make_event: Callable[[], Any] | None, every_event: bool,
    ) -> None:  # fmt: skip
        self.place, self.emitter, self.thread, self.counters, self.rows = place, emitter, thread, counters, rows
        self.slots: list[Slot | None] = [None] * len(_CODES)
        self.priced: dict[Key, Priced] = {}
        self.is_stage = place.level is Level.STAGE
        self.make_event, self.every_event = make_event, every_event

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Open a range; return what ``leave`` needs."""
        place, thread, counters = self.place, self.thread, self.counters
        outer = (thread.kv, thread.experts)
        try:
            key = place.read(args, kwargs, thread)
            around = thread.open[-1] if thread.open else None
            stage = _CODES[current_stage()]
            if stage == _UNKNOWN:
                stage = self._infer(key, around)
            slot = self.slots[stage] or self._slot(stage)
            if key != slot.key:
                slot.hold(key, self._price(key))
            begins = self.is_stage and not any(o.is_stage and o.stage == stage for o in thread.open)
            if begins:
                counters.begin_step(stage)
            step = max(counters.steps[stage], 0)
            event_id = thread.next_id
            thread.next_id = event_id + 1
            words = slot.words
            words[_EVENT], words[_STEP] = event_id, step
            if self.is_stage or slot.epoch != counters.epoch:
                self._announce(slot)
            timed = self.make_event is not None and (begins or self.every_event)
            event = self._event() if timed else None
        except BaseException:
            thread.kv, thread.experts = outer
            raise
        thread.open.append(Open(event_id, stage, self.is_stage))
        self.emitter.push(slot.attributes)
        return (
            event_id,
            around.event_id if around else None,
            slot.priced,
            stage,
            step,
            event,
            outer,
            perf_counter_ns(),
        )

    def leave(self, opened: tuple[Any, ...]) -> None:
        """Close the range that ``enter`` opened, and keep its row."""
        end_ns = perf_counter_ns()
        thread = self.thread
        self.emitter.pop()
        thread.open.pop()
        event_id, parent_id, priced, stage, step, event, outer, start_ns = opened
        thread.kv, thread.experts = outer
        if self.rows is not None:
            events = (event, self._event()) if event is not None else None
            self.rows.append(
                Row(event_id, parent_id, self.place, priced, stage, step, start_ns, end_ns, thread.native_id, events)
            )

    def _infer(self, key: Key, around: Open | None) -> int:
        if self.place.is_vision:
            return _VISION
        if self.place.is_model:
            shape = self._price(key).shape
            return _DECODE if shape.tokens == 1 and shape.kv_len > 1 else _PREFILL
        return around.stage if around else _UNKNOWN

    def _price(self, key: Key) -> Priced:
        priced = self.priced.get(key)
        if priced is None:
            if len(self.priced) >= self.MOST_SHAPES:
                self.priced.clear()
            priced = self.priced[key] = self.place.price(key)
        return priced

    def _slot(self, stage: int) -> Slot:
        slot = self.slots[stage] = Slot(self.place, stage, self.emitter)
        return slot

    def _announce(self, slot: Slot) -> None:
        if self.emitter.active:
            self.emitter.mark(announcement(self.place.path, slot.words.tolist()))
        slot.epoch = self.counters.epoch

    def _event(self) -> Any:
        assert self.make_event is not None  # noqa: S101 - only called where it was asked for
        event = self.make_event()
        event.record()
        return event
