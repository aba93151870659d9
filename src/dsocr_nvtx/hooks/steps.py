"""Ranges around the steps of a stage. They run around every token, so one is opened and closed by a few lines.

Nothing of a step has to be read or priced: its stage is said, its number counted, and its own cost nothing.
"""

from collections.abc import Callable
from time import perf_counter_ns

from dsocr_nvtx.hooks.places import Opened, Place, Slot, State, no_key, nothing
from dsocr_nvtx.hooks.rows import NO_PARENT
from dsocr_nvtx.hooks.shared import Shared
from dsocr_nvtx.hooks.stage import begin_stage, end_stage
from dsocr_nvtx.schema.payload_v1 import FIELD_INDEX_V1 as FIELD_INDEX
from dsocr_nvtx.schema.payload_v1 import announcement_v1 as announcement
from dsocr_nvtx.schema.records import LayerKind, Level, Stage

_EVENT, _STEP = FIELD_INDEX["event_id"], FIELD_INDEX["step"]


class StepTap:
    """Opens and closes the ranges of one stage's steps. ``enter`` and ``leave`` are called in pairs."""

    def __init__(self, stage: Stage, shared: Shared, fail: Callable[[str, Exception], None]) -> None:
        self.shared, self.stage, self.code, self.fail = shared, stage, list(Stage).index(stage), fail
        self.place = Place(
            path=str(stage), kind=LayerKind.REST, level=Level.STAGE, layer=None, read=no_key, price=nothing
        )
        self.active, self.said = shared.emitter.active, stage is not Stage.UNKNOWN
        self.pushes = self.active or shared.emitter.edge is not None
        self.slot = Slot(self.place, self.code, shared.emitter)
        rows = shared.rows
        self.number = rows.place_number(self.place) if rows is not None else 0
        self.priced = rows.late_number(self.place, ()) if rows is not None else 0

    def enter(self, state: State) -> Opened:
        """Open a step; return what ``leave`` needs. After an exception nothing is open that was not before."""
        shared, code, around = self.shared, self.code, state.open
        if around:
            self._interrupt(state)
            begins = shared.begins(state, code)
        else:
            begins = not shared.is_capturing()
        counters = shared.counters
        step, event_id = counters.begin_step(code) if begins else max(counters.steps[code], 0), state.next_id
        event = shared.first_event(begins=begins) if shared.make_event is not None else None
        if self.active:
            words = self.slot.words
            words[_EVENT], words[_STEP] = event_id, step
            shared.emitter.mark(announcement(self.place.path, words.tolist()))
        if self.pushes:
            shared.emitter.push(self.slot.attributes)
        parent = around[-1][0] if around else NO_PARENT
        state.next_id = event_id + 1
        around.append((event_id, code, self.place, self.said))
        return (event_id, parent, self.priced, code, step, event, state.frame, perf_counter_ns())

    def _interrupt(self, state: State) -> None:
        """End what calls around this step expect to come next: a step inside a forward is no call that was learned."""
        forwards = self.shared.forwards
        if state.rest is not None:
            forwards.close_rest(state)
        if state.scripted is not None and state.token is not None:
            forwards.stray(state)
        state.lesson = None

    def leave(self, state: State, opened: Opened) -> None:
        """Close the step that ``enter`` opened, and keep its row."""
        shared = self.shared
        if state.rest is not None:
            shared.forwards.close_rest(state)
        if state.script_rest is not None:
            shared.forwards.close_script_rest(state)
        end_ns = perf_counter_ns()
        try:
            if self.pushes:
                shared.emitter.pop()
        finally:
            state.open.pop()
            event_id, parent, priced, stage, step, event, state.frame, start_ns = opened
            shared.keep([event_id, parent, self.number, priced, stage, step, start_ns, end_ns, state.native_id], event)


class Step:
    """One step of a stage, as `HookSession.step` returns it. It is no generator, which would cost more than the range.

    Where a session is muted or off, the stage is said all the same.
    """

    __slots__ = ("_opened", "_state", "_tap", "_token")

    def __init__(self, tap: StepTap) -> None:
        self._tap = tap

    def __enter__(self) -> None:
        tap = self._tap
        self._token, self._opened = begin_stage(tap.stage), None
        if not tap.shared.muted:
            state = self._state = tap.shared.threads.state
            try:
                self._opened = tap.enter(state)
            except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                tap.fail(str(tap.stage), error)

    def __exit__(self, *_error: object) -> None:
        tap, opened = self._tap, self._opened
        if opened is not None:
            try:
                tap.leave(self._state, opened)
            except Exception as error:  # noqa: BLE001 - as above
                tap.fail(str(tap.stage), error)
        end_stage(self._token)
