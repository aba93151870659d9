"""What a hooked call's time is on other GPUs than its own: one process may use several, and one thread launch on all.

A call's own GPU is that of most of its operations, else that of most of its process's. Its costs, its host time and its
number of calls stay there; a GPU that waited while the call was open, or ran some of its operations, has a row for it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import Ints, Places, groups, numbers, recoded
from dsocr_nvtx.join.ranks import Identities
from dsocr_nvtx.schema.records import COST_FIELDS
from dsocr_nvtx.schema.tables import MEASURED, conform

ELSEWHERE = "elsewhere"
"""The origin of such a row: its parent is the call."""

_NOTHING = (
    *COST_FIELDS, "batch", "tokens", "kv_len", "rows", "keys", "pairs", "host_ns",
)  # fmt: skip
"""Columns that the call's own row has, and one elsewhere has not."""


@frozen(eq=False)
class Homes:
    """The own GPU of every range, and the number that GPU has in the range's process; -1 where that uses none."""

    gpu: Ints
    device: Ints
    ordinal: Mapping[tuple[int, int], int]

    @classmethod
    def of(cls, operations: pa.Table, gpu: Places, owner: Places, pid: Places) -> "Homes":
        """Find them, for ranges of these processes; ``gpu`` and ``owner`` are of the operations."""
        pids = numbers(operations, "pid")
        pair, first = groups(pids, gpu)
        process, used = _commonest(pids, gpu, pair, first)
        home = np.full(len(pid), -1)
        for one, its in zip(process.tolist(), used.tolist(), strict=True):
            home[pid == one] = its
        if len(set(used.tolist())) > 1 or (gpu != gpu[:1]).any():
            mine = np.flatnonzero(owner >= 0)
            call, used = _commonest(owner[mine], gpu[mine], *groups(owner[mine], gpu[mine]))
            home[call] = used
        device = numbers(operations, "device")
        at, number = _commonest(pair, device, *groups(pair, device))
        keys = zip(pids[first[at]].tolist(), gpu[first[at]].tolist(), strict=True)
        ordinal = dict(zip(keys, number.tolist(), strict=True))
        return cls(home, _devices(ordinal, pid, home), ordinal)

    def devices(self, pid: Places, gpu: Ints) -> Ints:
        """Return the numbers that GPUs have in processes; -1 where a process uses none."""
        return _devices(self.ordinal, pid, gpu)


def _devices(ordinal: Mapping[tuple[int, int], int], pid: Places, gpu: Ints) -> Ints:
    pair, first = groups(pid, gpu)
    keys = zip(pid[first].tolist(), gpu[first].tolist(), strict=True)
    return np.array([ordinal.get(key, -1) for key in keys], np.int64)[pair]


def _commonest(key: Places, value: Places, number: Ints, first: Ints) -> tuple[Ints, Ints]:
    """Return each key, and its commonest value; ``number`` and ``first`` are the `groups` of both."""
    order = np.argsort(np.bincount(number, minlength=len(first)), kind="stable")
    found, last = np.unique(key[first[order]][::-1], return_index=True)
    return np.asarray(found, np.int64), np.asarray(value[first[order]][::-1][last], np.int64)


@frozen(eq=False)
class Away:
    """Calls on GPUs that are not their own: position of each in the forest, and the GPU; times are kept beside."""

    call: Ints
    gpu: Ints

    @classmethod
    def of(cls, busy: tuple[Places, Places], idle: Sequence[tuple[Ints, int]]) -> "Away":
        """Put together where operations ran, as (call, GPU) of each, and which calls of each GPU have idle time."""
        call = np.concatenate([busy[0], *(calls for calls, _ in idle)])
        gpu = np.concatenate([busy[1], *(np.full(len(calls), one) for calls, one in idle)])
        _, first = groups(call, gpu)
        first = first[np.lexsort((gpu[first], call[first]))]
        return cls(call[first], gpu[first])

    def places(self, call: Places, gpu: Places) -> Ints:
        """Return where each (call, GPU) stands, which is among them."""
        height = int(max(self.gpu.max(initial=0), gpu.max(initial=0))) + 1
        key = self.call.astype(np.int64) * height + self.gpu
        return np.searchsorted(key, call.astype(np.int64) * height + gpu)


def rows_elsewhere(
    ranges: pa.Table, call: Ints, device: Ints, times: Mapping[str, object], who: Identities
) -> pa.Table:
    """Return MEASURED rows of ``call``, places in ``ranges``, on other devices of the same processes."""
    own = ranges.take(pa.array(call))
    lowest = min(int(numbers(ranges, "event_id").min()), 0)
    columns: dict[str, object] = {name: own[name] for name in MEASURED.names}
    columns |= {name: np.zeros(len(call), np.int64) for name in _NOTHING if name in columns}
    columns |= {
        **times,
        "end_ns": own["start_ns"],
        "event_id": lowest - 1 - np.arange(len(call)),
        "parent_id": own["event_id"],
        "origin": recoded(np.zeros(len(call), np.int64), [ELSEWHERE]),
        "observed_weight_bytes": pa.nulls(len(call), pa.int64()),
        "device": pa.array(device.astype(np.int32), mask=device < 0),  # a process that waits, and uses no GPU
        **who.columns(numbers(own, "pid"), device),
    }
    return conform(columns, MEASURED)
