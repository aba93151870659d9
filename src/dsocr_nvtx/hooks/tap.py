"""One hooked module: reads the shape of a call, looks its cost up, opens a range around it.

This is the hot path: it runs between the launches of a model that waits for its host, with none of its own code or data
in the processor's caches, so that every Python call, attribute and object counts several times what a loop would
measure. Per call it reads sizes only (no tensor values, no synchronisation), edits a bound payload in place, and adds a
few whole numbers to an array; costs are computed once per shape. An error in here never reaches the model.
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Any

from dsocr_nvtx.hooks.places import Key, Opened, OpenRange, Place, Priced, Slot, State
from dsocr_nvtx.hooks.quick import token_of
from dsocr_nvtx.hooks.repeats import repeat_of, repeated
from dsocr_nvtx.hooks.rows import NO_PARENT
from dsocr_nvtx.hooks.scripts import Learned, Plan, alike, growth
from dsocr_nvtx.hooks.shared import Shared
from dsocr_nvtx.hooks.stage import current_stage
from dsocr_nvtx.hooks.wrappers import Method, Watch, scripted, timed, timed_and_more
from dsocr_nvtx.schema.payload_v1 import FIELD_INDEX_V1 as FIELD_INDEX
from dsocr_nvtx.schema.payload_v1 import announcement_v1 as announcement
from dsocr_nvtx.schema.payload_v1 import growth_announcement_v1 as growth_announcement
from dsocr_nvtx.schema.records import Level, Stage

_EVENT, _STEP, _STAGE = (FIELD_INDEX[name] for name in ("event_id", "step", "stage"))
_CODES = {stage: code for code, stage in enumerate(Stage)}
_VISION, _PREFILL, _DECODE, _UNKNOWN = range(4)


class Tap:
    """Opens and closes the ranges of one place. ``enter`` and ``leave`` are called in pairs, innermost first."""

    MOST_SHAPES = 4096
    """Costs kept per place: a growing KV cache makes a new shape with every token."""

    def __init__(self, place: Place, shared: Shared) -> None:
        self.place, self.shared, self.counters = place, shared, shared.counters
        self.slots: list[Slot | None] = [None] * len(_CODES)
        self.priced: dict[Key, Priced] = {}
        self.is_stage = place.level is Level.STAGE
        self.rest: Tap | None = None
        self.codes: dict[int | None, int] = {}
        self.plans: dict[int | None, Plan] = {}
        self.forwards = shared.forwards
        self.number = shared.rows.place_number(place) if shared.rows is not None else 0
        self.active = shared.emitter.active
        self.push, self.pop = shared.emitter.push, shared.emitter.pop

    def around(self, inner: Method, fail: Callable[[str, Exception], None], watch: Watch | None = None) -> Method:
        """Return ``inner`` with a range around each call; what goes wrong in the hooks goes to ``fail``.

        ``watch`` says that ``inner`` is one of routed experts with their noting around it.
        """
        mine, threads = partial(fail, self.place.path), self.shared.threads
        read = partial(self._call, inner, mine)
        if self.place.is_model and not self.shared.every_event and (self.active or self.shared.rows is not None):
            return repeated(self, inner, read, mine)
        if self.active:
            emit = (self.push, self.pop)
            return scripted(inner, read, threads, self.plans, watch, emit, self.forwards, mine)
        edge = self.shared.emitter.edge
        if watch is not None or edge is not None:
            return timed_and_more(inner, read, threads, self.codes, watch, edge, mine)
        return timed(inner, read, threads, self.codes)

    def _call(
        self, inner: Method, fail: Callable[[Exception], None], state: State, args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # fmt: skip
        """Call with a range around, the call read and priced."""
        try:
            if self.shared.muted:
                return self._rehearsed(inner, state, args, kwargs)
            opened = self.enter(state, args, kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
            fail(error)
            return inner(*args, **kwargs)
        if self.place.is_model:
            self._remember(fail, state, opened[3], None if args else kwargs)
        whole = False
        try:
            result = inner(*args, **kwargs)
            whole = True
            return result
        finally:
            try:
                self.leave(state, opened, whole=whole)
            except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                fail(error)

    def _remember(
        self, fail: Callable[[Exception], None], state: State, stage: int, kwargs: dict[str, Any] | None
    ) -> None:
        """Keep what the next forward may have in common with this one, if anything: else the next is read."""
        state.last = None
        if state.token is not None and kwargs is not None:
            try:
                state.last = repeat_of(self, state, stage, kwargs)
            except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                fail(error)

    def enter(self, state: State, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Opened:
        """Open a range; return what ``leave`` needs. After an exception nothing is open that was not before."""
        if state.rest is not None:
            self.forwards.close_rest(state)
        outer = state.frame
        try:
            around = state.open[-1] if state.open else None
            slot, stage, said = self._slot_for(state, around, args, kwargs)
            begins = self.is_stage and self.shared.begins(state, stage)
            if begins:
                self.counters.begin_step(stage)
            step = self.counters.steps[stage]
            event_id = state.next_id
            slot.words[_EVENT], slot.words[_STEP] = event_id, step if step > 0 else 0
            if self.is_stage or slot.epoch != self.counters.epoch:
                self._announce(slot)
            event = self.shared.first_event(begins=begins) if self.shared.make_event is not None else None
            # Other threads may use the slot as soon as the payload is read.
            key, number = slot.key or (), slot.number
            words = slot.array.copy() if state.lesson is not None or self.place.is_model else slot.array
        except BaseException:
            state.frame = outer
            raise
        self.push(slot.attributes)
        state.next_id = event_id + 1
        state.open.append((event_id, stage, self.place, said))
        parent = around[0] if around is not None else NO_PARENT
        opened = (event_id, parent, number, stage, step, event, outer, perf_counter_ns())
        if self.place.is_model:
            try:
                self.forwards.begin(state, key, opened)
            except BaseException:
                self.pop()
                state.open.pop()
                state.frame = outer
                raise
        if state.lesson is not None:
            state.lesson.append(Learned(event_id, parent, self, slot, None, key, words))
        return opened

    def leave(self, state: State, opened: Opened, *, whole: bool = True) -> None:
        """Close the range that ``enter`` opened, keep its row, and open the range of what its container does next.

        ``whole``: the call ended well, so that all calls inside it were seen.
        """
        if state.rest is not None:
            self.forwards.close_rest(state)
        if state.script_rest is not None:
            self.forwards.close_script_rest(state)
        end_ns = perf_counter_ns()
        try:
            self.pop()
        finally:
            self._ended(state, opened, end_ns, whole=whole)

    def _ended(self, state: State, opened: Opened, end_ns: int, *, whole: bool) -> None:
        state.open.pop()
        if self.place.is_model:
            self.forwards.end(state, opened, whole=whole)
        event_id, parent, priced, stage, step, event, state.frame, start_ns = opened
        numbers = [event_id, parent, self.number, priced, stage, max(step, 0), start_ns, end_ns, state.native_id]
        self.shared.keep(numbers, event)
        if self.rest is not None and self.active and state.open and self._in_container(state.open[-1][2]):
            self.rest.begin_rest(state, stage, step, self)

    def begin_rest(self, state: State, stage: int, step: int, after: "Tap") -> None:
        """Open the range of what a container does itself; whatever comes next on the thread closes it."""
        slot = self.slots[stage] or self._slot(stage)
        if slot.key is None:
            self._hold(slot, ())
        event_id = state.next_id
        slot.words[_EVENT], slot.words[_STEP] = event_id, step if step > 0 else 0
        if slot.epoch != self.counters.epoch:
            self._announce(slot)
        words = slot.array.copy() if state.lesson is not None else slot.array
        self.push(slot.attributes)
        state.next_id = event_id + 1
        parent = state.open[-1][0]
        state.rest = (self, (event_id, parent, slot.number, stage, step, None, None, perf_counter_ns()))
        if state.lesson is not None:
            state.lesson.append(Learned(event_id, parent, self, slot, after, (), words))

    def tell(self, slot: Slot, key: Key, event_id: int, step: int, *, growing: bool = False) -> bool:
        """Announce the cost of a call that no range will be opened for: a graph's launch stands for it.

        ``growing``: also how it grows with the cache. Returns whether it does so evenly; else only the cost is told.
        """
        self._hold(slot, key)
        slot.words[_EVENT], slot.words[_STEP] = event_id, max(step, 0)
        more = growth(self.place, key) if growing else None
        self._announce(slot)
        if more is not None:
            self.shared.emitter.mark(growth_announcement(self.place.path, slot.words.tolist(), more.tolist()))
        return more is not None

    def price(self, key: Key) -> Priced:
        """Return the cost behind a key."""
        priced = self.priced.get(key)
        if priced is None:
            if len(self.priced) >= self.MOST_SHAPES:
                self.priced.clear()
            priced = self.priced[key] = self.place.price(key)
        return priced

    def _slot_for(
        self, state: State, around: OpenRange | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Slot, int, bool]:
        """Return the slot of this call, its payload up to date; its stage; and whether that was said."""
        place, frame = self.place, state.frame
        if place.framed and frame is not None and around is not None:
            slot = self.slots[around[1]]
            if slot is not None and slot.frame == frame[0]:
                return slot, around[1], around[3]
        key = place.read(args, kwargs, state)
        stage, said = self._stage(key, around)
        slot = self.slots[stage] or self._slot(stage)
        if key != slot.key:
            self._hold(slot, key)
        slot.frame = frame[0] if frame is not None else 0
        if frame is not None and not (self.is_stage or place.is_vision) and self.shared.rows is not None:
            self.codes[token_of(frame[0], stage)] = self.shared.rows.code(place, key)
        return slot, stage, said

    def _hold(self, slot: Slot, key: Key) -> None:
        """Put a call's cost into the slot; where no tool reads the payload, it is worked out when records are read."""
        rows = self.shared.rows
        if rows is not None and not self.active:
            slot.key, slot.number = key, rows.late_number(self.place, key)
        elif self.place.is_model and self._grown(slot, key):
            slot.key, slot.epoch = key, -1
            slot.number = rows.late_number(self.place, key) if rows is not None else 0
        else:
            priced = self.price(key)
            slot.hold(key, priced, rows.priced_number(priced) if rows is not None else 0)

    def _grown(self, slot: Slot, key: Key) -> bool:
        """Let the slot's payload grow to a longer cache; False where it must be priced: anew in every round."""
        if slot.round != self.counters.epoch or slot.key is None or not alike(key, slot.key):
            slot.round, slot.growth = self.counters.epoch, growth(self.place, key)
            return False
        if slot.growth is None:
            return False
        slot.array += slot.growth * (key[2] - slot.key[2])
        return True

    def _stage(self, key: Key, around: OpenRange | None) -> tuple[int, bool]:
        """Return the stage of a call and whether it was said: by the user, by the range around it, or by its shape."""
        if around is not None and not self.is_stage and (around[3] or not self.place.is_vision):
            return around[1], around[3]
        said = _CODES[current_stage()]
        if said != _UNKNOWN:
            return said, True
        if self.place.is_vision:
            return _VISION, False
        if self.place.is_model:
            return (_DECODE if key[1] == 1 and key[2] > 1 else _PREFILL), False
        return _UNKNOWN, False

    def _rehearsed(self, inner: Callable[..., Any], state: State, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call without a range, but price the call, so that a later one of its shape finds its cost ready."""
        outer = state.frame
        self.price(self.place.read(args, kwargs, state))
        try:
            return inner(*args, **kwargs)
        finally:
            state.frame = outer

    def _in_container(self, around: Place) -> bool:
        rest = self.place.rest
        if rest is None or rest.container is None:
            return around.level is Level.STAGE
        return around.path == rest.container

    def _slot(self, stage: int) -> Slot:
        slot = self.slots[stage] = Slot(self.place, stage, self.shared.emitter)
        return slot

    def _announce(self, slot: Slot) -> None:
        if self.active:
            self.shared.emitter.mark(announcement(self.place.path, slot.words.tolist()))
            if not self.is_stage:
                self.forwards.told.pop(slot.words[_STAGE], None)
        slot.epoch = self.counters.epoch
