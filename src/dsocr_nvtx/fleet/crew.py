"""Tasks spread over processes, here or on a cluster; a process that dies costs nothing but the time it took."""

import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import AbstractContextManager
from typing import TypeVar

from attrs import frozen

from dsocr_nvtx.fleet.cluster import Tls, cluster

T = TypeVar("T")
R = TypeVar("R")

ATTEMPTS = 3
"""A task whose process died so many times is given up: it is the task that kills them."""


@frozen
class Crew:
    """Where tasks run: how to start it, and how many tasks it is given at a time."""

    start: Callable[[], AbstractContextManager[Executor]]
    window: int


def local_crew(workers: int) -> Crew:
    """Return a crew of processes on this machine. They are started anew: threads and locks do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    return Crew(lambda: ProcessPoolExecutor(workers, mp_context=context), 2 * workers)


def dask_crew(address: str, tls: Tls | None = None) -> Crew:
    """Return the crew behind a Dask scheduler; see `cluster`."""
    return Crew(cluster(address, tls), 256)


def work_through(
    crew: Crew, tasks: Sequence[T], work: Callable[[T], R], given_up: Callable[[T, str], R]
) -> Iterator[R]:
    """Yield the result of every task, in the order in which they end; ``given_up`` makes that of a hopeless one.

    ``work`` must not raise. When a process dies, all tasks in flight are suspects: each is tried again alone, so that
    only the one that kills its process is ever given up.
    """
    waiting, suspects, deaths = deque(tasks), deque[T](), Counter[T]()
    while waiting or suspects:
        lost: list[tuple[T, str]] = []
        with crew.start() as pool:
            alone = bool(suspects)
            queue, window = (suspects, 1) if alone else (waiting, crew.window)
            yield from _until_broken(pool, queue, window, work, lost)
        for task, reason in lost:
            deaths[task] += 1
            if deaths[task] >= ATTEMPTS:
                yield given_up(task, reason)
            else:
                suspects.append(task)


def _until_broken(
    pool: Executor, queue: deque[T], window: int, work: Callable[[T], R], lost: list[tuple[T, str]]
) -> Iterator[R]:
    """Yield results until the queue is empty or the pool has lost a process; then ``lost`` has what was in flight."""
    running: dict[Future[R], T] = {}
    broken = False
    while (queue and not broken) or running:
        while queue and not broken and len(running) < window:
            try:
                task = queue.popleft()
                running[pool.submit(work, task)] = task
            except BrokenExecutor:
                queue.appendleft(task)
                broken = True
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            error = CancelledError("the cluster dropped it") if future.cancelled() else future.exception()
            if error is None:
                yield future.result()
                continue
            broken = broken or isinstance(error, BrokenExecutor)
            lost.append((task, str(error).split("\n", 1)[0] or type(error).__name__))
