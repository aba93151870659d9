"""The hooks of one model while they are attached: what a `with hook(model)` block yields."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from time import perf_counter_ns
from types import ModuleType
from typing import Any

from torch import nn

from dsocr_nvtx.hooks.bindings import HookedNetwork
from dsocr_nvtx.hooks.caches import Caches
from dsocr_nvtx.hooks.captures import Capture, Replay, replayed_ids
from dsocr_nvtx.hooks.checks import Checks
from dsocr_nvtx.hooks.compiled import CompiledCalls
from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.events import Events, between_events
from dsocr_nvtx.hooks.forwards import Forwards
from dsocr_nvtx.hooks.marking import Markers, put_token
from dsocr_nvtx.hooks.observe import ExpertsObserver, marks
from dsocr_nvtx.hooks.patches import PATCHING, Patches
from dsocr_nvtx.hooks.prices import NoWork
from dsocr_nvtx.hooks.readers import Reader, readers_of
from dsocr_nvtx.hooks.recorder import NativeRecorder, PythonRecorder
from dsocr_nvtx.hooks.sites import Binding, Site, step_sites
from dsocr_nvtx.hooks.stage import stage_called
from dsocr_nvtx.hooks.standins import StandIns
from dsocr_nvtx.hooks.stats import AnalyticRunStats
from dsocr_nvtx.hooks.steps import Step
from dsocr_nvtx.hooks.tracing import traced_as
from dsocr_nvtx.hooks.weights import element_type
from dsocr_nvtx.schema.records import CallShape, Level, Stage

_log = logging.getLogger(__name__)
_STAGE_TELLERS = {"generate": "generating", "_prefill": "prefilling"}
"""The model's own methods that tell the stage, and the count in a thread's state of how often each is under way."""


class HookSession:
    """Attached hooks: their statistics, their errors, and the means to mark steps.

    ``errors`` lists what went wrong inside hooks and which costs are unknown, once per site; the model never sees it.
    ``checks`` says what of the costs was checked against tensors, and what contradicts them. A session that is switched
    off attaches nothing and records nothing.
    """

    def __init__(
        self, emitter: Emitter, *, record: bool, sites: list[Site], make_event: Callable[[], Any] | None,
        events: Events, native: ModuleType | None = None,
    ) -> None:  # fmt: skip
        self.errors: list[str] = []
        self.off = not (record or emitter.active)
        self.observer: ExpertsObserver | None = None
        steps = step_sites(len(sites))
        self._native = native
        on_gpu = make_event is not None
        self._forwards = Forwards([*sites, *steps], emitter, record=record, on_gpu=on_gpu, native=native)
        self._forwards.muted = self.off
        if events is Events.STEPS:
            self._forwards.step_event = make_event
        self._range_event = make_event if events is Events.RANGES else None
        self.stats = AnalyticRunStats(self._forwards.log, replays=self._forwards.graphs.replays)
        self._patches = Patches()
        self._capture: Capture | None = None
        self._markers: Markers | None = None
        no_work, shape = NoWork(), CallShape()
        prices = self._forwards.prices
        self._step_costs = {stage: prices.of(site, no_work, shape) for stage, site in zip(Stage, steps, strict=True)}

    @property
    def checks(self) -> Checks:
        """What of the costs was checked against tensors, what contradicts them, and how many are unknown."""
        return self._forwards.checks

    @property
    def attached(self) -> list[tuple[nn.Module, str]]:
        """The methods that were replaced: module and name, in the order in which they were."""
        return self._patches.methods

    def attach(self, model: nn.Module, found: HookedNetwork, *, observe_experts: bool) -> None:
        """Put stand-ins into the place of all methods that were bound; `detach` takes them away again."""
        attention = found.network.layers[0].attention
        caches = Caches(attention.kv_heads, attention.head_dim)
        shared = (self._forwards.threads, self._forwards.emitter, self.fail)
        recorder = PythonRecorder(*shared) if self._native is None else NativeRecorder(self._native, *shared)
        make = StandIns(self._forwards, recorder, caches, found.config, found.lists_experts, self.fail)
        readers = readers_of(found, caches)
        for device in {parameter.device for parameter in model.parameters()}:
            put_token(device)
        markers = self._markers = Markers(CompiledCalls(self._forwards, make, found.sites, readers))
        with PATCHING:  # what stands there is read, and then replaced: no other session may come between
            observed = self._observed(found) if observe_experts else {}
            for name, counter in _STAGE_TELLERS.items():
                if callable(getattr(model, name, None)):
                    self._patches.replace(model, name, make.within(getattr(model, name), counter))
            for binding in found.bindings:
                watched = observed.pop((id(binding.owner), binding.method), None)
                self._hook(binding, watched or getattr(binding.owner, binding.method), make, readers, markers)
            for owner in {id(owner): owner for owner in (model, *found.towers.values())}.values():
                self._patches.replace(owner, "_apply", self._applied(owner._apply, found))
            for binding in found.experts:  # at a level that has no ranges for experts
                watched = observed.get((id(binding.owner), binding.method))
                if watched is not None:
                    self._patches.replace(binding.owner, binding.method, watched)

    def _hook(
        self, binding: Binding, inner: Callable[..., Any], make: StandIns, readers: dict[str, Reader], markers: Markers
    ) -> None:
        plain, site = getattr(binding.owner, binding.method), binding.site
        if self._range_event is not None:
            inner = between_events(inner, self._range_event, self._forwards.threads, self._forwards.log)
        stand_in = make.of_entry(inner, site, readers[site.path]) if site.is_entry else make.of_site(inner, site)
        traced = markers.traced(plain, site.number, begins=site.is_entry)
        self._patches.replace(binding.owner, binding.method, traced_as(stand_in, traced, begins=site.is_entry))

    def _applied(self, inner: Callable[..., Any], found: HookedNetwork) -> Callable[..., Any]:
        """Return the method by which a module moves and converts its weights; their types are looked at afterwards."""
        dtypes = {site.path: site.dtype for site in found.sites if site.path in found.towers}

        @wraps(inner)
        def applied(*args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            for path, dtype in dtypes.items():
                now = element_type(found.towers[path])
                if now != dtype:
                    self._forwards.stale = f"the weights are {now} now, and were {dtype} when hooked: hook them again"
            return result

        return applied

    def _observed(self, found: HookedNetwork) -> dict[tuple[int, str], Callable[..., Any]]:
        """Return the methods of routed experts with the noting of their indices around them."""
        self.observer = ExpertsObserver(self._forwards, self.fail)
        innermost = any(binding.site.level is not Level.STAGE for binding in found.bindings)
        return {
            (id(binding.owner), binding.method): self.observer.watch(
                getattr(binding.owner, binding.method), binding, innermost=innermost
            )
            for binding in found.experts
        }

    def publish_experts(self) -> None:
        """Read which experts were hit, keep it in ``stats``, and announce what is new. Waits for the device.

        The end of a `hook` block does it; do it earlier where a profiler stops listening before that.
        """
        if self.observer is None:
            return
        try:
            calls = self.observer.read(replayed_ids(self.stats.replays))
        except Exception as error:  # noqa: BLE001 - whatever it is, the model's results stand
            self.fail("observer", error)
            return
        told = {(call.event_id, call.layer, call.step) for call in self.stats.experts}
        self.stats.experts[:] = calls
        fresh = [call for call in calls if (call.event_id, call.layer, call.step) not in told]
        for text in marks(fresh) if self._forwards.emitter.announces else ():
            self._forwards.emitter.mark(text)

    def detach(self) -> None:
        """Take every range away, newest first, so that what was there before is there again.

        What was recorded stays to be read, and keeps no module of the model alive.
        """
        self._forwards.closed = True
        if self._markers is not None:
            self._markers.leave()
        self._patches.undo()
        if self.observer is not None:
            self.observer.release()
        if self.checks.contradictions:
            _log.warning("hooks %s", self.checks.summary)

    def fail(self, where: str, error: Exception) -> None:
        """Note what went wrong, once per place."""
        line = f"{where}: {type(error).__name__}: {error}"
        if not any(known.startswith(f"{where}: ") for known in self.errors):
            _log.warning("%s", line)
            self.errors.append(line)

    def step(self, stage: str) -> AbstractContextManager[None]:
        """Run one step of a stage: everything inside belongs to it, and a range of its own goes around it."""
        named = stage_called(stage)
        return Step(self._forwards, self._step_costs[named], named, self.fail)

    @contextmanager
    def captured(self, stage: str) -> Iterator[None]:
        """Capture a step of a stage into a CUDA graph: calls inside run nothing, and count as no step.

        Enter it when the capture has begun and leave it before it ends, so that ranges lie within; say `replayed`
        before each launch, and `launched` after the step.
        """
        if self.off:
            yield
            return
        forwards, first = self._forwards, self._forwards.log.end
        if self.observer is not None:
            self.observer.begin_capture()
        before, forwards.capturing = forwards.capturing, True
        forwards.captured.clear()
        try:
            with self.step(stage):
                yield
        finally:
            forwards.capturing = before
            forwards.announce_all()  # a replay takes the costs that were announced since its capture
        kinds = [costs for costs, of in forwards.captured if of == stage and costs.root.path == "model"]
        self._capture = Capture(Stage(stage), forwards.log.since(first), kinds)

    def replayed(self, kv_len: int) -> None:
        """Say, inside a step, that the graph captured last is about to be launched with ``kv_len`` keys in the cache.

        Announces the costs that depend on it, where a tool listens; what the launch stands for is in ``stats``.
        """
        capture, forwards = self._capture, self._forwards
        if capture is None or forwards.muted:
            return
        try:
            state, step = forwards.threads.state, forwards.step(capture.stage)
            if forwards.emitter.announces:
                for costs in capture.kinds:
                    forwards.announce(state, costs, capture.stage, kv_len)
            if forwards.record:
                parent = state.frame.event_id if state.frame is not None else None
                replay = Replay(capture, kv_len, step, parent, perf_counter_ns(), state.native_id)
                self.stats.replays.append(replay)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
            self.fail("replay", error)

    def launched(self) -> None:
        """Say, after the step, that its graph was launched: what its routers chose is kept, with one copy."""
        if self.observer is None or self._capture is None or self._forwards.muted:
            return
        try:
            replay = len(self.stats.replays) - 1 if self._forwards.record else -1
            self.observer.launched(replay, self._capture.stage, self._forwards.step(self._capture.stage))
        except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
            self.fail("observer", error)

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Emit and record nothing inside the block, but price its calls: a warm-up warms the hooks up as well."""
        before, self._forwards.muted = self._forwards.muted, True
        try:
            yield
        finally:
            self._forwards.muted = before

    def announce_all(self) -> None:
        """Let every module announce its cost again at its next call: call this where a capture starts."""
        self._forwards.announce_all()

    def discard(self) -> None:
        """Forget what was recorded so far, as after a warm-up; steps are counted from 0 again."""
        self.stats.clear()
        if self.observer is not None:
            self.observer.clear()
        self._forwards.discard()

    def write(self, directory: Path) -> None:
        """Write ``ranges.arrow`` and the plan's lists into a run directory."""
        self.stats.write(directory)
