"""A CUDA graph's stand-in where there is no GPU."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from dsocr_nvtx.hooks import HookSession
from dsocr_nvtx.run import decoding as modes
from dsocr_nvtx.run.decoding import Decoding, Graphed, Static


class HostGraph:
    """A graph on the CPU: what is captured is run and undone, a replay runs it with the hooks kept quiet."""

    quiet: HookSession | None = None

    def __init__(self, owner: Static) -> None:
        self.owner, self.replays, self.rehearsals = owner, 0, 0

    def rehearse(self, step: Callable[[], None]) -> None:
        self.rehearsals += 1
        step()

    def capture(self, step: Callable[[], None], around: AbstractContextManager[object]) -> None:
        with self.owner.undone(), around:
            step()
        self.step = step

    def replay(self) -> None:
        self.replays += 1
        if self.quiet is None:
            return self.step()
        with self.quiet.muted():
            return self.step()


class HostGraphed(Graphed):
    """Graph decoding without a GPU."""

    def __init__(self, network: modes.Network, prompt: torch.Tensor, decoding: Decoding) -> None:
        super().__init__(network, prompt, decoding, make=lambda: HostGraph(self))
