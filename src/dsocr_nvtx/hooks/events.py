"""Timing events of the device, recorded with as little Python as can be: they are recorded around every step."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial, wraps
from typing import Any

import torch

from dsocr_nvtx.hooks.calls import CallLog
from dsocr_nvtx.hooks.threads import Threads


class Events(StrEnum):
    """What CUDA events are recorded around."""

    NONE = "none"
    STEPS = "steps"
    RANGES = "ranges"


class EventRecorder:
    """Records timing events on the current stream of one device; events are made some at a time."""

    AHEAD = 64

    def __init__(self, device: torch.device) -> None:
        self._index = device.index or 0
        self._make = partial(torch.cuda.Event, enable_timing=True)
        self._streams: dict[int, Any] = {}
        self._ready: list[Any] = []

    def __call__(self) -> Any:
        """Record and return an event."""
        ready = self._ready
        if not ready:
            ready += [self._make() for _ in range(self.AHEAD)]
        event = ready.pop()
        number = torch._C._cuda_getCurrentRawStream(self._index)
        stream = self._streams.get(number)
        if stream is None:
            stream = self._streams[number] = torch.cuda.current_stream(self._index)
        event.record(stream)
        return event


def between_events(inner: Callable[..., Any], make: Callable[[], Any], threads: Threads, log: CallLog) -> Any:
    """Return ``inner`` with a timing event before and after each call; a recorder goes around it.

    In a call that goes into a CUDA graph an event would tell no time.
    """

    @wraps(inner)
    def timed(*args: Any, **kwargs: Any) -> Any:
        state = threads.state
        if state.frame is None or state.frame.captured:
            return inner(*args, **kwargs)
        event_id, before = state.next_id - 1, make()
        try:
            return inner(*args, **kwargs)
        finally:
            log.events[event_id] = (before, make())

    return timed
