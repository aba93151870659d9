"""Which rank this process is, as its launcher says in the environment, and how that gets into a report.

Ranks share pages and nothing else (data parallel, as serving engines do), so no collective is ever called.
"""

import os
import socket
from collections.abc import Callable, Mapping
from functools import partial

import torch

from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.run.timing import described_devices
from dsocr_nvtx.schema.ranks import MOST_RANKS, Rank, gpu_identity, rank_mark

REPEAT_EVERY = 32
"""Decode steps between two marks, so that a capture that begins late still learns the rank."""


def launched_rank(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """Return what a launcher such as torchrun says (RANK, WORLD_SIZE), or None where nothing launched ranks."""
    if "RANK" not in environment:
        return None
    rank, world = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    if rank >= world:
        raise UsageError(f"RANK={rank} of WORLD_SIZE={world}: ranks count from 0")
    return Rank(rank=rank, world_size=world, host=socket.gethostname())


def local_device(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the device that is this rank's on its host, or None where nothing launched ranks."""
    return f"cuda:{_number(environment, 'LOCAL_RANK')}" if "RANK" in environment else None


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal() or len(text) > len(str(MOST_RANKS)):
        raise UsageError(f"{name}={text!r}: a launcher sets RANK, LOCAL_RANK and WORLD_SIZE together, as whole numbers")
    return int(text)


def rank_on(device: torch.device, launched: Rank | None) -> Rank:
    """Return who this process is, its GPU included."""
    known = launched or Rank(host=socket.gethostname())
    uuid = str(described_devices()[device.index or 0]["uuid"]) if device.type == "cuda" else ""
    return Rank(rank=known.rank, world_size=known.world_size, host=known.host, gpu_uuid=gpu_identity(uuid))


def rank_marker(rank: Rank) -> Callable[[], object]:
    """Return what says the rank to a profiler that listens.

    Through torch, as costs are announced: the ``nvtx`` package would keep every text for the life of the process.
    """
    text = rank_mark(rank)
    mark: Callable[[str], object] = torch.cuda.nvtx.mark
    # A build of torch without CUDA has no NVTX functions.
    return partial(mark, text) if torch.version.cuda else (lambda: None)
