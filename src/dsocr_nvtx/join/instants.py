"""A device's wall time as stretches with an owner, for whoever asks what it did between two instants.

Contract: the stretches of a device are disjoint and cover its window. Kept for served runs alone: they need memory.
"""

from collections.abc import Sequence

import numpy as np
from attrs import evolve, frozen

from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.columns import Ints, Places
from dsocr_nvtx.join.ownership import IdlePieces


@frozen(eq=False)
class Stretches:
    """Disjoint stretches of one device's time: the position of each one's range (-1: none), and whether it is busy.

    ``device`` is the device's CUDA ordinal.
    """

    device: int
    start: Ints
    end: Ints
    owner: Ints
    is_busy: Mask

    @classmethod
    def of(cls, device: int, ended: Ints, owned: Ints, owner: Places, idle: Sequence[IdlePieces]) -> "Stretches":
        """Put together operations, by when each ended and what it owns, which is its last part, and idle time."""
        mine = np.flatnonzero(owned > 0)
        start = np.concatenate([(ended - owned)[mine], *(pieces.start for pieces in idle)])
        end = np.concatenate([ended[mine], *(pieces.end for pieces in idle)])
        whose = np.concatenate([owner[mine], *(pieces.owner for pieces in idle)]).astype(np.int64)
        order = np.argsort(start, kind="stable")
        return cls(device, start[order], end[order], whose[order], (np.arange(len(start)) < len(mine))[order])


@frozen(eq=False)
class Instants:
    """The stretches of every device, by the number that the join has for it, and each range's own device."""

    devices: tuple[Stretches, ...]
    home: Ints

    def placed(self, rows: Ints, count: int) -> "Instants":
        """Return them with other numbers for ranges: ``rows`` has that of each position, of ``count`` in all."""
        home = np.full(count, -1)
        home[rows] = self.home
        renumbered = np.append(rows, -1)
        return Instants(tuple(evolve(one, owner=renumbered[one.owner]) for one in self.devices), home)


def time_before(start: Ints, end: Ints, times: Ints) -> Ints:
    """Return how much of disjoint stretches, in order, lies before each instant."""
    if not len(start):
        return np.zeros(len(times), np.int64)
    before = np.concatenate([[0], np.cumsum(end - start)])
    begun = np.searchsorted(start, times, side="right")
    last = np.maximum(begun - 1, 0)
    return np.where(begun > 0, before[last] + np.minimum(times - start[last], (end - start)[last]), 0)
