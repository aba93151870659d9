"""A step captured into a CUDA graph, and launched again and again."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import torch


class StepGraph(Protocol):
    """What records a step once and runs it whole afterwards."""

    def rehearse(self, step: Callable[[], None]) -> None:
        """Run the step once as it will be captured, so that nothing is made for the first time inside a capture."""
        ...

    def capture(self, step: Callable[[], None], around: AbstractContextManager[object]) -> None:
        """Record the step without running it; ``around`` is open while it is recorded, and only then."""
        ...

    def replay(self) -> None:
        """Launch what was recorded."""
        ...


class CudaGraph:
    """PyTorch's CUDA graph, captured on a stream of its own. Other threads may go on using CUDA meanwhile."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def rehearse(self, step: Callable[[], None]) -> None:
        """Run the step on a side stream, which capturing needs: libraries keep workspaces per stream."""
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            step()
        current.wait_stream(side)

    def capture(self, step: Callable[[], None], around: AbstractContextManager[object]) -> None:
        """Record the step."""
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"), around:
            step()

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()
