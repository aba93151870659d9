"""The hooks of one model while they are attached: what a `with hook(model)` block yields."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from torch import nn

from dsocr_nvtx.hooks.captures import Capture, Replay, replayed_ids
from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.events import Events
from dsocr_nvtx.hooks.observe import ExpertsObserver, marks, watched_experts
from dsocr_nvtx.hooks.parts import Binding
from dsocr_nvtx.hooks.places import Place
from dsocr_nvtx.hooks.shared import Shared
from dsocr_nvtx.hooks.stage import stage_called
from dsocr_nvtx.hooks.stats import AnalyticRunStats
from dsocr_nvtx.hooks.steps import Step, StepTap
from dsocr_nvtx.hooks.tap import Tap
from dsocr_nvtx.schema.records import Stage

_log = logging.getLogger(__name__)


class HookSession:
    """Attached hooks: their statistics, their errors, and the means to mark steps.

    ``errors`` lists what went wrong inside hooks, once per module; the model never sees it, and the calls concerned
    have no range. A session that is switched off attaches nothing and records nothing.
    """

    def __init__(self, emitter: Emitter, *, record: bool, make_event: Callable[[], Any] | None, events: Events) -> None:
        self.stats = AnalyticRunStats()
        self.errors: list[str] = []
        self.off = not (record or emitter.active)
        self.observer: ExpertsObserver | None = None
        self._shared = Shared(emitter, self.stats.rows if record else None, make_event, events)
        self._shared.muted = self.off
        self._attached: list[tuple[nn.Module, str, object]] = []
        self._steps: dict[str, StepTap] = {stage: StepTap(stage, self._shared, self._fail) for stage in Stage}
        self._rests: dict[str, Tap] = {}
        self._growing: list[Tap] = []
        self._capture: Capture | None = None

    def wrap(self, owner: nn.Module, method: str, place: Place) -> None:
        """Put a range around a method of a module, on this instance only; `detach` takes it away again."""
        tap = Tap(place, self._shared)
        if place.grows:
            self._growing.append(tap)
        if place.rest is not None:
            tap.rest = self._rests.setdefault(place.rest.path, Tap(place.rest.place(place), self._shared))
        watch = self.observer.watches.get((id(owner), method)) if self.observer is not None else None
        hooked = tap.around(getattr(owner, method), self._fail, watch)
        self._replace(owner, method, hooked)

    @property
    def edges(self) -> bool:
        """Whether something is called at both ends of every range, no tool listening."""
        return not self.off and self._shared.emitter.edge is not None

    @property
    def attached(self) -> list[tuple[nn.Module, str]]:
        """The methods that were replaced: module and name, in the order in which they were."""
        return [(owner, method) for owner, method, _ in self._attached]

    def _replace(self, owner: nn.Module, method: str, hooked: Callable[..., Any]) -> None:
        self._attached.append((owner, method, owner.__dict__.get(method, _ABSENT)))
        setattr(owner, method, hooked)

    def observe_experts(self, model: nn.Module, found: list[Binding]) -> None:
        """Note the experts that calls hit; call this before `wrap`, so that their ranges are around the noting."""
        self.observer = ExpertsObserver(self._shared, self._fail)
        for binding, description in watched_experts(model, found):
            inner = getattr(binding.owner, binding.method)
            self._replace(binding.owner, binding.method, self.observer.watch(inner, binding, description))

    def publish_experts(self) -> None:
        """Read which experts were hit, keep it in ``stats``, and announce what is new. Waits for the device.

        The end of a `hook` block does it; do it earlier where a profiler stops listening before that.
        """
        if self.observer is None:
            return
        try:
            calls = self.observer.read(replayed_ids(self.stats.replays))
        except Exception as error:  # noqa: BLE001 - whatever it is, the model's results stand
            self._fail("observer", error)
            return
        told = {(call.event_id, call.layer, call.step) for call in self.stats.experts}
        self.stats.experts[:] = calls
        fresh = [call for call in calls if (call.event_id, call.layer, call.step) not in told]
        for text in marks(fresh) if self._shared.emitter.active else ():
            self._shared.emitter.mark(text)

    def detach(self) -> None:
        """Take every range away, newest first, so that what was there before is there again.

        What was recorded stays to be read, and keeps no module of the model alive.
        """
        while self._attached:
            owner, method, before = self._attached.pop()
            if before is _ABSENT:
                owner.__dict__.pop(method, None)
            else:
                setattr(owner, method, before)
        self._shared.noted = None
        if self.observer is not None:
            self.observer.release()

    def _fail(self, path: str, error: Exception) -> None:
        line = f"{path}: {type(error).__name__}: {error}"
        if not any(known.startswith(f"{path}: ") for known in self.errors):
            _log.warning("hook failed, its calls have no range: %s", line)
            self.errors.append(line)

    def step(self, stage: str) -> AbstractContextManager[None]:
        """Run one step of a stage: everything inside belongs to it, and a range of its own goes around it."""
        return Step(self._steps.get(stage) or self._steps[stage_called(stage)])

    @contextmanager
    def captured(self, stage: str) -> Iterator[None]:
        """Capture a step of a stage into a CUDA graph: calls inside run nothing, and count as no step.

        Enter it when the capture has begun and leave it before it ends, so that ranges lie within; say `replayed`
        before each launch, and `launched` after the step.
        """
        if self.off:
            yield
            return
        first, shared = self.stats.rows.kept, self._shared
        if self.observer is not None:
            self.observer.captures()
        with shared.captured(), self.step(stage):
            yield
        code = list(Stage).index(Stage(stage))
        keys = {tap.place: slot.key for tap in self._growing if (slot := tap.slots[code]) and slot.key is not None}
        self._capture = Capture(code, self.stats.rows.captured_since(first), keys)

    def replayed(self, kv_len: int) -> None:
        """Say, inside a step, that the graph captured last is about to be launched with ``kv_len`` keys in the cache.

        Announces the costs that depend on it, where a tool listens; what the launch stands for is in ``stats``.
        """
        capture, shared = self._capture, self._shared
        if capture is None or shared.muted:
            return
        try:
            state, step = shared.threads.state, max(shared.counters.steps[capture.stage], 0)
            if shared.emitter.active:
                self._tell(capture, kv_len, state.next_id, step)
            if shared.rows is not None:
                parent = state.open[-1][0] if state.open else None
                replay = Replay(capture, kv_len, step, parent, perf_counter_ns(), state.native_id)
                self.stats.replays.append(replay)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
            self._fail("replay", error)

    def launched(self) -> None:
        """Say, after the step, that its graph was launched: what its routers chose is kept, with one copy."""
        if self.observer is None or self._capture is None:
            return
        try:
            stage = self._capture.stage
            replay = len(self.stats.replays) - 1 if self._shared.rows is not None else -1
            self.observer.launched(replay, stage, max(self._shared.counters.steps[stage], 0))
        except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
            self._fail("observer", error)

    def _tell(self, capture: Capture, kv_len: int, event_id: int, step: int) -> None:
        """Announce the model's cost, and with it the cache's length; where that is not enough, how others grow."""
        told, even = self._shared.forwards.told, True
        taps = [
            (tap, slot) for tap in self._growing if (slot := tap.slots[capture.stage]) and tap.place in capture.keys
        ]
        enough = (capture, self._shared.counters.epoch, [capture.is_full(tap.place, kv_len) for tap, _ in taps])
        before = told.get(capture.stage)
        for tap, slot in taps:
            key = capture.key(tap.place, kv_len)
            if tap.place.is_model:
                tap.tell(slot, key, event_id, step)
            elif before != enough:
                even &= tap.tell(slot, key, event_id, step, growing=True)
        if even:
            told[capture.stage] = enough

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Emit and record nothing inside the block, but price its calls: a warm-up warms the hooks up as well."""
        before, self._shared.muted = self._shared.muted, True
        try:
            yield
        finally:
            self._shared.muted = before

    def announce_all(self) -> None:
        """Let every module announce its cost again at its next call: call this where a capture starts."""
        self._shared.counters.epoch += 1

    def discard(self) -> None:
        """Forget what was recorded so far, as after a warm-up; steps are counted from 0 again."""
        self.stats.clear()
        if self.observer is not None:
            self.observer.clear()
        self._shared.counters.steps[:] = [-1] * len(self._shared.counters.steps)
        self.announce_all()

    def write(self, directory: Path) -> None:
        """Write ``ranges.arrow`` and the plan's lists into a run directory."""
        self.stats.write(directory)


_ABSENT = object()
