"""Timing on a CUDA device by events around windows of calls, read once at the end."""

import time
from itertools import pairwise
from math import ceil
from typing import Final

import torch

from dsocr_nvtx.measure.subjects import Call, Series

_WINDOW_NS: Final = 200_000
"""Shortest window: an event costs about 2 us, so that at most 1 % of a window is the timing itself."""
_WINDOWS: Final = range(5, 2001)


class EventTimer:
    """Times calls on the current CUDA device and stream."""

    def warm_up(self, call: Call) -> float:
        """Make a few calls, so that kernels are loaded and chosen, and return about how many ns one takes."""
        for _ in range(2):
            call()
        torch.cuda.synchronize()
        started = time.perf_counter_ns()
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        return max((time.perf_counter_ns() - started) / 3, 1.0)

    def pause(self, seconds: float) -> None:
        """Leave the device idle."""
        time.sleep(seconds)

    def time(self, call: Call, about_ns: float, seconds: float) -> Series:
        """Make calls for about so long. The first window has met an idle device; the host runs ahead in the others."""
        each = max(1, ceil(_WINDOW_NS / about_ns))
        count = min(max(ceil(seconds * 1e9 / (about_ns * each)), _WINDOWS.start), _WINDOWS.stop - 1)
        events = [
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(count + 1)
        ]
        started = time.perf_counter_ns()
        events[0].record()
        for event in events[1:]:
            for _ in range(each):
                call()
            event.record()
        torch.cuda.synchronize()
        ended = time.perf_counter_ns()
        spans = [a.elapsed_time(b) * 1e6 / each for a, b in pairwise(events)]
        return Series(ns=tuple(spans), start_ns=started, end_ns=ended)
