"""The hooks of one model while they are attached: what a `with hook(model)` block yields."""

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.stage import analytic_stage
from dsocr_nvtx.hooks.stats import AnalyticRunStats
from dsocr_nvtx.hooks.tap import NOTHING, Counters, Place, Tap, Thread
from dsocr_nvtx.schema.records import LayerKind, Level, Stage

_log = logging.getLogger(__name__)


class HookSession:
    """Attached hooks: their statistics, their errors, and the means to mark steps.

    ``errors`` lists what went wrong inside hooks, once per module; the model never sees it, and the calls concerned
    have no range. A session that is switched off attaches nothing and records nothing.
    """

    def __init__(self, emitter: Emitter, *, record: bool, make_event: Callable[[], Any] | None, events: bool) -> None:
        self.stats = AnalyticRunStats()
        self.errors: list[str] = []
        self.off = not (record or emitter.active)
        self._emitter, self._record, self._make_event, self._events = emitter, record, make_event, events
        self._thread = Thread(itertools.count().__next__)
        self._counters = Counters()
        self._taps: list[tuple[nn.Module, str, object]] = []
        self._steps = {stage: self._tap(_step_place(stage)) for stage in Stage}

    def _tap(self, place: Place) -> Tap:
        rows = self.stats.rows if self._record else None
        return Tap(place, self._emitter, self._thread, self._counters, rows, self._make_event, self._events)

    def wrap(self, owner: nn.Module, method: str, place: Place) -> None:
        """Put a range around a method of a module, on this instance only; `detach` takes it away again."""
        from torch.compiler import is_compiling

        inner = getattr(owner, method)
        tap, fail = self._tap(place), self._fail

        def hooked(*args: Any, **kwargs: Any) -> Any:
            if is_compiling():  # under torch.compile's tracing the hooks step aside
                return inner(*args, **kwargs)
            try:
                opened = tap.enter(args, kwargs)
            except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                fail(place.path, error)
                return inner(*args, **kwargs)
            try:
                return inner(*args, **kwargs)
            finally:
                tap.leave(opened)

        self._taps.append((owner, method, owner.__dict__.get(method, _ABSENT)))
        setattr(owner, method, hooked)

    def detach(self) -> None:
        """Take every range away, newest first, so that what was there before is there again."""
        while self._taps:
            owner, method, before = self._taps.pop()
            if before is _ABSENT:
                owner.__dict__.pop(method, None)
            else:
                setattr(owner, method, before)

    def _fail(self, path: str, error: Exception) -> None:
        line = f"{path}: {type(error).__name__}: {error}"
        if not any(known.startswith(f"{path}: ") for known in self.errors):
            _log.warning("hook failed, its calls have no range: %s", line)
            self.errors.append(line)

    @contextmanager
    def step(self, stage: str) -> Iterator[None]:
        """Run one step of a stage: everything inside belongs to it, and a range of its own goes around it."""
        with analytic_stage(stage):
            if self.off:
                yield
                return
            tap = self._steps[Stage(stage)]
            opened = tap.enter((), {})
            try:
                yield
            finally:
                tap.leave(opened)

    def announce_all(self) -> None:
        """Let every module announce its cost again at its next call: call this where a capture starts."""
        self._counters.epoch += 1

    def discard(self) -> None:
        """Forget what was recorded so far, as after a warm-up; steps are counted from 0 again."""
        self.stats.clear()
        self._counters.steps[:] = [-1] * len(self._counters.steps)
        self.announce_all()

    def write(self, directory: Path) -> None:
        """Write ``ranges.arrow`` and the plan's lists into a run directory."""
        self.stats.write(directory)


_ABSENT = object()


def _step_place(stage: Stage) -> Place:
    return Place(
        path=str(stage),
        kind=LayerKind.REST,
        level=Level.STAGE,
        layer=None,
        read=lambda _args, _kwargs, _thread: (),
        price=lambda _key: NOTHING,
    )
