"""Timing events of the device, recorded with as little Python as can be: they are recorded around every step."""

from enum import StrEnum
from functools import partial
from typing import Any

import torch


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
