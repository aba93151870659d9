"""What launching costs: the host's rate, a stream's shortest period from kernel to kernel, and that of a graph.

The kernel is the smallest that torch has, an addition to one number. Its own length is read from CUPTI through torch's
profiler, where nothing else holds CUPTI; a period less that length is the gap between two kernels.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import torch

from dsocr_nvtx.measure.subjects import Call, Series

_KERNELS: Final = 500
"""Launches per window: fewer than a stream can hold before the host has to wait."""
_SLEEP_CYCLES: Final = 20_000_000
"""About 10 ms: the host has queued a whole window before the first kernel may start."""


def launch_series(windows: int) -> list[tuple[str, Series]]:
    """Return (quantity, ns per kernel) for the host, a queued stream, a replayed graph, and the kernel itself."""
    number = torch.zeros(1, device="cuda")

    def kernel() -> object:
        return number.add_(1.0)

    found = [
        ("host_launch", _timed(windows, lambda: _host(kernel))),
        ("stream_period", _timed(windows, lambda: _queued(lambda: _launches(kernel)))),
    ]
    graph = _captured(kernel)
    found.append(("replay_period", _timed(windows, lambda: _queued(graph.replay))))
    with suppress(Exception):  # the profiler needs CUPTI for itself; without it this one row is missing
        found.append(("shortest_kernel", _kernel_times(kernel)))
    return found


def _timed(windows: int, one: Callable[[], float]) -> Series:
    one()
    started = time.perf_counter_ns()
    spans = tuple(one() for _ in range(windows))
    return Series(ns=spans, start_ns=started, end_ns=time.perf_counter_ns())


def _host(kernel: Call) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter_ns()
    _launches(kernel)
    return (time.perf_counter_ns() - started) / _KERNELS


def _launches(kernel: Call) -> None:
    for _ in range(_KERNELS):
        kernel()


def _queued(work: Callable[[], object]) -> float:
    """Return the device's time for a window that the host queued while the device slept, per kernel."""
    first: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    last: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    torch.cuda._sleep(_SLEEP_CYCLES)  # type: ignore[no-untyped-call]
    first.record()
    work()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) * 1e6 / _KERNELS


def _captured(kernel: Call) -> Any:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _launches(kernel)
    graph.replay()
    torch.cuda.synchronize()
    return graph


def _kernel_times(kernel: Call) -> Series:
    """Return the length of kernels that each met an idle device, as CUPTI saw it and as host-bound captures hold it."""
    from torch.profiler import ProfilerActivity, profile

    started = time.perf_counter_ns()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        _host(kernel)
        torch.cuda.synchronize()
    events: Any = seen.profiler.kineto_results.events()
    spans = tuple(float(e.duration_ns()) for e in events if "elementwise" in e.name())
    if not spans:
        raise LookupError("the profiler saw no kernel")
    return Series(ns=spans, start_ns=started, end_ns=time.perf_counter_ns())
