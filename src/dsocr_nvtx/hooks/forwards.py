"""Where forwards of the model begin and end: which of them are known, so that the calls inside need not be read."""

from array import array
from time import perf_counter_ns
from typing import TYPE_CHECKING

from dsocr_nvtx.hooks.places import Key, Opened, State
from dsocr_nvtx.hooks.quick import QuickFrame, token_of
from dsocr_nvtx.hooks.repeats import Repeat
from dsocr_nvtx.hooks.scripts import Script, ScriptFrame, learned
from dsocr_nvtx.schema.payload_v1 import announcement_v1 as announcement

if TYPE_CHECKING:
    from dsocr_nvtx.hooks.shared import Shared


class Forwards:
    """The forwards that a session knows by their shape and stage.

    Without a tool a forward is known once each of its calls has been seen in one like it; with one, once a decode step
    like it has been learned. While a CUDA graph is captured, and where every call is timed by events, none is.
    """

    MOST_STRAYS = 3
    """A forward whose calls have come out of turn so often is not learned again."""

    def __init__(self, shared: "Shared") -> None:
        self.shared = shared
        self.times = shared.rows is not None and not shared.emitter.active
        self.scripts: dict[int | None, Script] = {}
        self.strays: dict[int, int] = {}
        self.known: set[int] = set()
        self.around: dict[int, int] = {}
        """By the event of a forward's own range, the token of the forward around it."""
        self.told: dict[int, object] = {}
        """By stage, whose announcements hold for calls that announce nothing themselves: a script's, or a capture's."""

    def begin(self, state: State, key: Key, opened: Opened) -> None:
        """Begin a forward, its own range open: ``key`` is that of the model's call."""
        shared = self.shared
        if shared.every_event or state.frame is None or state.scripted is not None or shared.is_capturing():
            state.token = None
            return
        if state.token is not None:  # inside a forward whose calls are only timed: those of this one are read
            self.around[opened[0]], state.token = state.token, None
            return
        token = token_of(state.frame[0], opened[3])
        if self.times:
            state.token = token if token in self.known else None
        elif shared.emitter.active and key[1] == 1:
            self._begin_script(state, token, opened)
        if state.token is not None:
            state.notes = [] if shared.noted is not None and shared.noted.wanted else None

    def end(self, state: State, opened: Opened, *, whole: bool) -> None:
        """End a forward, its own range closed: what was logged in it is kept.

        One that is not ``whole``, as it failed half-way, makes none known: calls are missing from it.
        """
        if not whole:
            state.lesson = None
        if self.times:
            self._end_timed(state, opened, whole=whole)
        elif state.scripted is not None and state.scripted.parent_id == opened[0]:  # else of a forward around it
            self._end_script(state, state.scripted)
        elif state.lesson is not None:
            self._learn(state, opened)

    def follows(self, last: Repeat, kv_len: int, first_id: int, step: int) -> bool:
        """Open the range of a forward that repeats the last one; False, and nothing done, where it must be read.

        After True the script is this forward's until its lock is released; one that another thread follows is not
        waited for.
        """
        script: Script | None = last.script
        stage, emitter = last.stage, self.shared.emitter
        if script is None or not script.lock.acquire(blocking=False):
            return False
        epoch = self.shared.counters.epoch
        if (
            script.epoch != epoch
            or self.told.get(stage) is not script
            or self.scripts.get(last.token) is not script  # forgotten
        ):
            script.lock.release()
            return False
        try:
            script.fill(first_id, step, kv_len)
            emitter.mark(announcement(script.head.tap.place.path, script.head_words.tolist()))
            emitter.push(script.head_attributes)
        except BaseException:
            script.lock.release()
            raise
        return True

    def stray(self, state: State) -> None:
        """End a script, as a call came out of turn: what is open is open as any range is, and it is forgotten."""
        frame = state.scripted
        assert frame is not None  # noqa: S101 - a token is only set with it
        assert state.token is not None  # noqa: S101 - callers have looked
        self.close_script_rest(state)
        _, stage, _, said = state.open[-1]
        ended, calls = set(state.log[:: frame.WIDTH]), frame.script.calls
        for position in range(state.at):
            if position not in ended:
                state.open.append((frame.first_id + position, stage, calls[position].tap.place, said))
        self.scripts.pop(state.token, None)
        self.strays[state.token] = self.strays.get(state.token, 0) + 1
        state.token, state.next_id = None, frame.first_id + state.at

    def close_rest(self, state: State) -> None:
        """Close the open range of a container's own work."""
        assert state.rest is not None  # noqa: S101 - callers have looked
        self.shared.emitter.pop()
        tap, (event_id, parent, priced, stage, step, _, _, start_ns) = state.rest
        state.rest = None
        numbers = [event_id, parent, tap.number, priced, stage, max(step, 0), start_ns, perf_counter_ns()]
        self.shared.keep([*numbers, state.native_id], None)

    def close_script_rest(self, state: State) -> None:
        """Close the open range of a container's own work, if a script opened one."""
        if state.script_rest is not None:
            self.shared.emitter.pop()
            state.log += (*state.script_rest, perf_counter_ns())
            state.script_rest = None

    def begin_strayed_rest(self, state: State, position: int) -> None:
        """Open the range of a container's own work that a script had at ``position``: a call came out of turn since."""
        frame = state.scripted
        assert frame is not None  # noqa: S101 - it is set until the forward that began it ends
        call = frame.script.calls[position]
        call.tap.begin_rest(state, frame.stage, frame.step, call.tap)

    def _begin_script(self, state: State, token: int, opened: Opened) -> None:
        script = self.scripts.get(token)
        if script is None:
            state.lesson = [] if self.strays.get(token, 0) < self.MOST_STRAYS else None  # the tap notes itself first
        elif script.lock.acquire(blocking=False):  # else another thread follows it, and this forward is read
            try:
                if self.scripts.get(token) is script:  # not forgotten since
                    self._follow(state, token, script, opened)
            finally:
                if state.scripted is None:
                    script.lock.release()

    def _follow(self, state: State, token: int, script: Script, opened: Opened) -> None:
        assert state.frame is not None  # noqa: S101 - callers have looked
        event_id, _, _, stage, step, *_ = opened
        kv, epoch = state.frame[1], self.shared.counters.epoch
        script.fill(state.next_id, max(step, 0), kv[0])
        if script.epoch != epoch and not script.holds():
            del self.scripts[token]
            state.lesson = []
            return
        if script.epoch != epoch or self.told.get(stage) is not script:
            script.announce(self.shared.emitter.mark, only_growing=False)
            script.epoch, self.told[stage] = epoch, script
        state.log, state.token, state.at = [], token, 0
        state.scripted = ScriptFrame(
            script, state.next_id, event_id, stage, max(step, 0), kv, state.native_id, state.log
        )

    def _end_script(self, state: State, frame: ScriptFrame) -> None:
        if state.token is not None:
            state.next_id = frame.first_id + state.at
        frame.log = array("q", state.log)
        state.scripted = state.token = None
        frame.script.lock.release()
        self._keep(state, frame)
        state.log = []

    def _learn(self, state: State, opened: Opened) -> None:
        assert state.frame is not None  # noqa: S101 - it was set where the forward began
        assert state.lesson is not None  # noqa: S101 - callers have looked
        shared, lesson, state.lesson = self.shared, state.lesson, None
        token = token_of(state.frame[0], opened[3])
        script = None if token in self.scripts else learned(lesson, state.frame[1][0], shared.emitter.prepare)
        if script is None:
            return
        with script.lock:
            if self.scripts.setdefault(token, script) is script:  # else another thread learned it meanwhile
                self._lay_out(state, token, script, opened)

    def _lay_out(self, state: State, token: int, script: Script, opened: Opened) -> None:
        shared, stage, step = self.shared, opened[3], max(opened[4], 0)
        if shared.rows is not None:
            script.codes = [shared.rows.code(call.tap.place, call.key) for call in script.calls]
            script.number = shared.rows.script_number(script)
        for tap, plan in script.plans().items():
            tap.plans[token] = plan
        script.fill(state.next_id, step, script.kv_len)
        script.announce(shared.emitter.mark, only_growing=True)
        script.epoch, self.told[stage] = shared.counters.epoch, script

    def _end_timed(self, state: State, opened: Opened, *, whole: bool) -> None:
        if state.frame is None:
            return
        event_id, _, _, stage, step, *_ = opened
        if state.token is None:
            if whole and not self.shared.every_event:
                self.known.add(token_of(state.frame[0], stage))
            state.token = self.around.pop(event_id, None)
            return
        log = array("q", state.log)
        frame = QuickFrame(state.next_id, event_id, stage, max(step, 0), state.frame[1], state.native_id, log)
        state.token, state.next_id = None, state.next_id + len(frame)
        state.log.clear()
        self._keep(state, frame)

    def _keep(self, state: State, frame: QuickFrame | ScriptFrame) -> None:
        if self.shared.rows is not None:
            self.shared.rows.append_frame(frame)
        if state.notes and self.shared.noted is not None:
            self.shared.noted.take(frame, state.notes)
        state.notes = None
