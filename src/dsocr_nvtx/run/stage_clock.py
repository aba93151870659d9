"""How long each stage of a batch took, and which steps it made: a session around the session that watches the run."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from dsocr_nvtx.run.decoding import StepSession


class StageClock:
    """Notes a time where a stage of a batch begins and ends: a CUDA event on a GPU, which waits for nothing.

    Steps are counted as the hooks count them: over all batches, those that failed half-way included.
    """

    def __init__(self, session: StepSession, device: torch.device) -> None:
        self.session, self._stamp = session, _event if device.type == "cuda" else time.perf_counter_ns
        self.steps: Counter[str] = Counter()
        self.first: dict[str, int] = {}
        self._begun: dict[str, Any] = {}
        self._ended: dict[str, Any] = {}

    def begin(self) -> None:
        """Start a batch."""
        self.first, self._begun, self._ended = {}, {}, {}

    def finish(self) -> None:
        """End a batch, behind the last work of its decode steps."""
        if "decode" in self._begun:
            self._ended["decode"] = self._stamp()

    @contextmanager
    def step(self, stage: str) -> Iterator[None]:
        """Run one step of a stage."""
        if stage not in self.first:
            self.first[stage], self._begun[stage] = self.steps[stage], self._stamp()
        self.steps[stage] += 1
        with self.session.step(stage):
            yield
        if stage != "decode":
            self._ended[stage] = self._stamp()

    def captured(self, stage: str) -> AbstractContextManager[object]:
        """Pass on."""
        return self.session.captured(stage)

    def replayed(self, kv_len: int) -> None:
        """Pass on."""
        self.session.replayed(kv_len)

    def launched(self) -> None:
        """Pass on."""
        self.session.launched()

    def muted(self) -> AbstractContextManager[object]:
        """Pass on."""
        return self.session.muted()

    def made(self, stage: str) -> int:
        """Return how many steps of a stage the batch has made."""
        return self.steps[stage] - self.first[stage] if stage in self.first else 0

    def ns(self, stage: str) -> int | None:
        """Return the time of a stage of the batch, or None where it was not finished. Waits for its end."""
        if stage not in self._ended:
            return None
        begun, ended = self._begun[stage], self._ended[stage]
        if isinstance(begun, int):
            return int(ended - begun)
        ended.synchronize()
        milliseconds: float = begun.elapsed_time(ended)
        return round(milliseconds * 1e6)


def _event() -> Any:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
