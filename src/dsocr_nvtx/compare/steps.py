"""One run's stage as a cube: metric x row x step, summed over processes and devices.

A row is what `roofline.arrow` has: module, kind, layer. Calls captured into a CUDA graph ran nothing and happen once,
however many steps replay them: they are rows of their own, of phase ``capture``, outside the steps.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.compare.outs import Out
from dsocr_nvtx.join.columns import Ints, coded, known, numbers
from dsocr_nvtx.roofline.points import tokens_of
from dsocr_nvtx.schema.records import COST_FIELDS

PARTS = ("busy", "launch", "sync", "memory", "host", "queued", "other")
"""What wall time is made of: owned busy time, and owned idle time by cause; other: idle of a cause not recorded."""
COUNTS = {"launches": len(PARTS), "calls": len(PARTS) + 1}
_COLUMNS = (
    "busy_owned_ns", "idle_launch_ns", "idle_sync_ns", "idle_memory_ns", "idle_host_ns", "idle_queued_ns",
)  # fmt: skip


class Key(NamedTuple):
    """A row within its stage; ``layer`` is -1 where there is none."""

    module: str
    kind: str
    layer: int
    phase: str

    @property
    def sort_key(self) -> tuple[str, str, int, str]:
        """A canonical order, whatever the order in the tables."""
        return (self.phase, self.module, self.layer, self.kind)


Shape = frozenset[tuple[int, int]]
"""The (batch, tokens) pairs of a row's calls."""


@frozen(kw_only=True, eq=False)
class StageRun:
    """A stage of one run. ``values`` is [part or count, row, step]; ``captured`` [part or count, captured row]."""

    stage: str
    keys: list[Key]
    shapes: list[Shape]
    reads_cache: npt.NDArray[np.bool_]
    step: Ints
    kv_len: Ints
    tokens: Ints
    values: Ints
    captured_keys: list[Key]
    captured: Ints


def stage_runs(out: Out) -> dict[str, StageRun]:
    """Return every stage of a join, in the order of the stages' first calls."""
    codes, words = coded(out.ranges, "stage")
    captured = _captured(out.ranges)
    tokens = tokens_of(out.ranges)
    return {
        words[code]: _stage(out.ranges, words[code], np.flatnonzero(codes == code), captured, tokens)
        for code in dict.fromkeys(codes.tolist())
    }


def _captured(ranges: pa.Table) -> npt.NDArray[np.bool_]:
    if "origin" not in ranges.column_names:  # a table written before graphs were replayed
        return np.zeros(len(ranges), bool)
    codes, words = coded(ranges, "origin")
    return np.isin(codes, [code for code, word in enumerate(words) if word == "captured"])


def _stage(ranges: pa.Table, stage: str, rows: Ints, captured: npt.NDArray[np.bool_], tokens: Ints) -> StageRun:
    ran, once = rows[~captured[rows]], rows[captured[rows]]
    keys, row = _keys(ranges, ran, "run")
    once_keys, once_row = _keys(ranges, once, "capture")
    step, at = np.unique(numbers(ranges, "step")[ran], return_inverse=True)
    values = np.zeros((len(PARTS) + len(COUNTS), len(keys), len(step)), np.int64)
    captures = np.zeros((len(values), len(once_keys)), np.int64)
    for metric, (ours, theirs) in enumerate(zip(_measures(ranges, ran), _measures(ranges, once), strict=True)):
        np.add.at(values[metric], (row, at), ours)
        np.add.at(captures[metric], once_row, theirs)
    kv = np.zeros(len(step), np.int64)
    np.maximum.at(kv, at, numbers(ranges, "kv_len")[ran])
    seen = np.zeros(len(step), np.int64)
    np.add.at(seen, at, tokens[ran])
    cached = np.zeros(len(keys), bool)
    np.logical_or.at(cached, row, numbers(ranges, "kv_len")[ran] > 0)
    return StageRun(
        stage=stage, keys=keys, shapes=_shapes(ranges, ran, row, len(keys)), reads_cache=cached, step=step, kv_len=kv,
        tokens=seen, values=values, captured_keys=once_keys, captured=captures,
    )  # fmt: skip


def _measures(ranges: pa.Table, rows: Ints) -> Iterator[Ints]:
    """Yield the parts and counts of each call, in the order of `PARTS` and `COUNTS`."""
    nothing = np.zeros(len(rows), np.int64)  # of a cause that tables of an earlier version do not tell
    parts = [numbers(ranges, name)[rows] if name in ranges.column_names else nothing for name in _COLUMNS]
    yield from parts
    yield numbers(ranges, "idle_owned_ns")[rows] - sum(parts[1:], nothing)
    yield numbers(ranges, "launches")[rows]
    yield np.ones(len(rows), np.int64)


def _keys(ranges: pa.Table, rows: Ints, phase: str) -> tuple[list[Key], Ints]:
    """Return the keys of rows in canonical order, and which key each row has."""
    module, modules = coded(ranges, "module")
    kind, kinds = coded(ranges, "kind")
    layer = np.where(known(ranges, "layer"), numbers(ranges, "layer"), -1)
    codes, inverse = np.unique(np.stack([module[rows], kind[rows], layer[rows]]), axis=1, return_inverse=True)
    keys = [Key(modules[m], kinds[k], int(n), phase) for m, k, n in codes.T.tolist()]
    order = sorted(range(len(keys)), key=lambda i: keys[i].sort_key)
    place = np.empty(len(keys), np.int64)
    place[order] = np.arange(len(keys))
    return [keys[i] for i in order], place[inverse.reshape(-1)]


def _shapes(ranges: pa.Table, rows: Ints, row: Ints, count: int) -> list[Shape]:
    """Return each row's shapes: those of calls with a cost, since what has none may not know its shape."""
    costs = [numbers(ranges, name)[rows] > 0 for name in COST_FIELDS if name in ranges.column_names]
    modelled = np.logical_or.reduce(costs) if costs else np.ones(len(rows), bool)
    told = np.flatnonzero(modelled) if modelled.any() else np.arange(len(rows))
    columns = [row[told], *(numbers(ranges, name)[rows[told]] for name in ("batch", "tokens"))]
    triples = np.unique(np.stack(columns), axis=1).T.tolist()
    found: list[set[tuple[int, int]]] = [set() for _ in range(count)]
    for one, batch, tokens in triples:
        found[one].add((batch, tokens))
    return [frozenset(shapes) for shapes in found]
