"""Which rank each process of a report is, and the columns that say so in every row.

Source: the marks that a run makes (`dsocr_nvtx.schema.ranks`), else its run directory. Two that differ are refused.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.source import mapped
from dsocr_nvtx.ingest.trace import Device, Trace
from dsocr_nvtx.join.columns import Ints, groups, numbers, recoded
from dsocr_nvtx.schema.directories import RUN, read_manifest
from dsocr_nvtx.schema.ranks import MOST_RANKS, RANK_PREFIX, Rank, gpu_identity, parse_rank_mark


@frozen(eq=False)
class Identities:
    """The rank of each process, as far as it is told, and the device behind each (process id, ordinal)."""

    ranks: Mapping[int, Rank]
    devices: Mapping[tuple[int, int], Device]

    def columns(self, pid: Ints, device: Ints) -> dict[str, object]:
        """Return ``rank`` and ``gpu_uuid`` for rows of these processes and ordinals (-1: not known)."""
        if len(self.devices) == 1 and len(pid) and (pid == pid[0]).all() and (device == device[0]).all():
            pair, first = np.broadcast_to(np.int64(0), len(pid)), np.zeros(1, np.int64)
        else:
            pair, first = groups(pid, device)
        keys = [(int(pid[i]), int(device[i])) for i in first]
        ranks = np.array([self.ranks.get(key[0], Rank()).rank for key in keys], np.int32)
        gpus = [self._gpu(*key) for key in keys]
        known = np.array([bool(gpu) for gpu in gpus], bool)
        return {
            "rank": mapped(lambda rows: ranks[rows], pair),
            "gpu_uuid": recoded(mapped(lambda rows: np.where(known, np.arange(len(keys)), -1)[rows], pair), gpus),
        }

    def _gpu(self, pid: int, ordinal: int) -> str:
        device = self.devices.get((pid, ordinal))
        return gpu_identity(device.uuid) if device is not None and device.uuid else self.ranks.get(pid, Rank()).gpu_uuid


def identities(trace: Trace, where: str, told: Rank | None = None) -> Identities:
    """Return who is who in a trace. ``told`` is what the run directory says of its only process."""
    ranks = told_ranks(trace.announcements, where)
    for pid in np.unique(numbers(trace.nvtx, "pid")).tolist() if told is not None else ():
        _note(ranks, pid, told, where)
    return Identities(ranks, trace.devices)


def told_ranks(announcements: pa.Table, where: str) -> dict[int, Rank]:
    """Return process id -> rank, of the marks in an ANNOUNCEMENTS table; a process that says two things is refused."""
    ours = announcements.filter(pc.starts_with(announcements["text"], RANK_PREFIX))
    ranks: dict[int, Rank] = {}
    for pid, text in dict.fromkeys(zip(ours["pid"].to_pylist(), ours["text"].to_pylist(), strict=True)):
        rank = parse_rank_mark(text)
        if rank is not None:
            _note(ranks, pid, rank, where)
    return ranks


def _note(ranks: dict[int, Rank], pid: int, rank: Rank | None, where: str) -> None:
    known = ranks.get(pid)
    if rank is None or known == rank:
        return
    if known is not None and (known.rank, known.world_size) != (rank.rank, rank.world_size):
        raise Refused(where, f"process {pid} says that it is {known} and {rank}", "give each report its own run")
    ranks.setdefault(pid, rank)


def recorded_rank(run: Path) -> Rank | None:
    """Return the rank in the ``run.json`` of a run directory; None where it says nothing of it."""
    try:
        told = read_manifest(run)
    except Refused:  # by whoever reads its tables
        return None
    rank, world_size, host, gpu = (told.get(name) for name in ("rank", "world_size", "host", "gpu_uuid"))
    if not (type(rank) is int and type(world_size) is int and isinstance(host, str) and isinstance(gpu, str) and host):
        return None
    if not 0 <= rank < world_size <= MOST_RANKS:
        raise Refused(run / RUN, f"rank {rank} of {world_size}", "give a run's directory as it was written")
    return Rank(rank=rank, world_size=world_size, host=host, gpu_uuid=gpu_identity(gpu))
