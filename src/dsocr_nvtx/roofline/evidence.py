"""What stands behind a row: its kernels by name, and a stage's steps one after another."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import Ints, coded, groups, known, numbers, rows_with
from dsocr_nvtx.join.events import calls_of

ROW_KEYS = ("pid", "device", "stage", "module", "kind", "layer")
"""What tells the rows of a ROOFLINE table apart; the first three, those of a STAGES table."""


@frozen
class KernelShare:
    """The GPU operations of one name in a row: how many, and how long they were busy."""

    row: int
    name: str
    kind: str
    operations: int
    ns: int


@frozen
class Steps:
    """The steps of one stage, in order: own times summed over their calls; ``kv_len`` is the longest in each."""

    stage: str
    step: Ints
    kv_len: Ints
    busy_ns: Ints
    idle_ns: Ints


def kernel_shares(rows: pa.Table, kernels: pa.Table, ranges: pa.Table, where: str) -> list[KernelShare]:
    """Return, per row of a ROOFLINE table, its kernels by name, longest first; refuse tables of different joins."""
    call = calls_of(kernels, ranges, where)
    mine = np.flatnonzero(call >= 0)
    row = rows_of(rows, ranges)[call[mine]]
    (name, names), (kind, kinds) = coded(kernels, "name"), coded(kernels, "class")
    group, first = groups(row, name[mine])
    ns = np.bincount(group, numbers(kernels, "busy_owned_ns")[mine], len(first)).astype(np.int64)
    count = np.bincount(group, minlength=len(first))
    order = np.lexsort((first, -ns, row[first]))
    return [
        KernelShare(
            int(row[first[g]]), names[name[mine[first[g]]]], kinds[kind[mine[first[g]]]], int(count[g]), int(ns[g])
        )
        for g in order
        if row[first[g]] >= 0
    ]


def stage_steps(ranges: pa.Table, stage: Mapping[str, object]) -> Steps:
    """Return the steps of one row of a STAGES table; calls that were captured into a CUDA graph ran nothing."""
    own = rows_with(ranges, "stage", str(stage["stage"]))
    own &= numbers(ranges, "pid") == stage["pid"]
    own &= numbers(ranges, "device", -1) == (-1 if stage["device"] is None else stage["device"])
    mine = np.flatnonzero(own)
    group, first = groups(numbers(ranges, "step")[mine])
    kv_len = np.zeros(len(first), np.int64)
    np.maximum.at(kv_len, group, numbers(ranges, "kv_len")[mine])
    busy, idle = (
        np.bincount(group, numbers(ranges, name)[mine], len(first)).astype(np.int64)
        for name in ("busy_owned_ns", "idle_owned_ns")
    )
    return Steps(str(stage["stage"]), numbers(ranges, "step")[mine[first]], kv_len, busy, idle)


def rows_of(rows: pa.Table, ranges: pa.Table, keys: Sequence[str] = ROW_KEYS) -> Ints:
    """Return the row of a ROOFLINE table that each call of a MEASURED table is in, or -1.

    With the first three of the keys, that of a STAGES table.
    """
    together = [_together(rows, ranges, name) for name in keys]
    key, _ = groups(*together)
    place = np.full(int(key.max(initial=-1)) + 1, -1, np.int64)
    place[key[: len(rows)]] = np.arange(len(rows))
    return np.asarray(place[key[len(rows) :]], np.int64)


def _together(rows: pa.Table, ranges: pa.Table, name: str) -> Ints:
    """Return one column of both tables as numbers: codes of one dictionary where it is text, -1 for null."""
    if not pa.types.is_dictionary(rows.schema.field(name).type):
        return np.concatenate([np.where(known(t, name), numbers(t, name), -1) for t in (rows, ranges)])
    (one, words), (two, more) = coded(rows, name), coded(ranges, name)
    code = {word: at for at, word in enumerate(words)}
    recode = np.array([code.get(word, -1) for word in more] or [-1], np.int64)
    return np.concatenate([one, recode[two]])
