"""Hearing of CUDA graphs that are captured, whoever captures them: between begin and end their nodes are made."""

from functools import wraps
from typing import Any

import torch

from dsocr_nvtx.serving.session import ServedSession


def hear_captures(session: ServedSession) -> None:
    """Let a session know of every capture from now on, until it is detached."""
    graph = torch.cuda.CUDAGraph
    begin, end = graph.capture_begin, graph.capture_end

    @wraps(begin)
    def capture_begin(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = begin(self, *args, **kwargs)
        session.begin_capture()
        return result

    @wraps(end)
    def capture_end(self: Any, *args: Any, **kwargs: Any) -> Any:
        session.end_capture()
        return end(self, *args, **kwargs)

    graph.capture_begin, graph.capture_end = capture_begin, capture_end  # type: ignore[method-assign]

    def restore() -> None:
        graph.capture_begin, graph.capture_end = begin, end  # type: ignore[method-assign]

    session.at_end.append(restore)
