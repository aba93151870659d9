"""The cells in which causes are looked for: time per step of each kernel, or idle cause, in each row of a stage."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.compare.noise import typical
from dsocr_nvtx.compare.outs import Out
from dsocr_nvtx.compare.pairs import Side, StagePair
from dsocr_nvtx.compare.steps import COUNTS, PARTS
from dsocr_nvtx.join.columns import Ints, coded, groups, known, numbers, rows_with
from dsocr_nvtx.join.events import calls_of
from dsocr_nvtx.join.naming import short_name
from dsocr_nvtx.roofline.least import Floats


class Cell(NamedTuple):
    """A kernel by its short name, or a cause of idle time, in one row of a stage; layer -1 for none."""

    module: str
    kind: str
    layer: int
    name: str


@frozen(kw_only=True, eq=False)
class Cells:
    """Times of cells in paired steps of both runs, ns per unit, and their launches (of idle: calls) per unit."""

    cells: list[Cell]
    a: Floats
    b: Floats
    a_count: Floats
    b_count: Floats

    @cached_property
    def usual(self) -> tuple[Floats, Floats]:
        """The typical time of each cell in both runs."""
        return _typical(self.a), _typical(self.b)


def _typical(times: Floats) -> Floats:
    return np.array([typical(line) for line in times], np.float64)


@frozen(eq=False)
class Operations:
    """The GPU operations of a run that hooked calls own: the call's row in MEASURED, short name, and duration."""

    out: Out
    row: Ints
    name: Ints
    names: list[str]
    ns: Ints

    @classmethod
    def of(cls, out: Out) -> "Operations | None":
        """Return a run's operations, None where its join has none."""
        if out.kernels is None:
            return None
        row = calls_of(out.kernels, out.ranges, out.where)
        mine = np.flatnonzero(row >= 0)
        start, end = (numbers(out.kernels, name)[mine] for name in ("start_ns", "end_ns"))
        codes, words = coded(out.kernels, "name")
        short: dict[str, int] = {}
        code = np.array([short.setdefault(short_name(word), len(short)) for word in words] or [0], np.int64)
        return cls(out, np.asarray(row[mine], np.int64), code[codes[mine]], list(short), end - start)

    def cells(self, stage: str, side: Side) -> tuple[list[Cell], Floats, Floats]:
        """Return a stage's cells, the sum of durations of each in each paired step, and its operations."""
        ranges = self.out.ranges
        (modules, module_words), (kinds, kind_words) = (coded(ranges, name) for name in ("module", "kind"))
        step = _places(side.step, numbers(ranges, "step"))
        wanted = rows_with(ranges, "stage", stage) & (step >= 0)
        mine = np.flatnonzero(wanted[self.row])
        row, name = self.row[mine], self.name[mine]
        layer = np.where(known(ranges, "layer"), numbers(ranges, "layer"), -1)[row]
        cell, first = groups(modules[row], kinds[row], layer, name)
        shape = len(first), len(side.step)
        times, count = np.zeros(shape), np.zeros(shape)
        np.add.at(times, (cell, step[row]), self.ns[mine])
        np.add.at(count, (cell, step[row]), 1)
        found = [
            Cell(module_words[modules[row[at]]], kind_words[kinds[row[at]]], int(layer[at]), self.names[name[at]])
            for at in first
        ]
        return found, times, count


def call_cells(pair: StagePair, a: pa.Table, b: pa.Table) -> Cells:
    """Return the CUDA calls of a stage in both runs by function: how long they lasted, and how many there were."""
    sides = [_called(table, pair.stage, side) for table, side in ((a, pair.a), (b, pair.b))]
    names = sorted({*sides[0], *sides[1]})
    nothing = [np.zeros((2, len(side.step))) for side in (pair.a, pair.b)]
    (a_times, a_count), (b_times, b_count) = (
        np.stack([found.get(name, none) for name in names], axis=1) * (len(side.step) / max(side.units, 1))
        if names
        else np.zeros((2, 0, len(side.step)))
        for found, none, side in zip(sides, nothing, (pair.a, pair.b), strict=True)
    )
    cells = [Cell("", "", -1, name) for name in names]
    return Cells(cells=cells, a=a_times, b=b_times, a_count=_mean(a_count), b_count=_mean(b_count))


def _called(table: pa.Table, stage: str, side: Side) -> dict[str, Floats]:
    """Return, per function, how long its calls lasted in each paired step, and how many they were."""
    at = _places(side.step, numbers(table, "step", -1))
    codes, names = coded(table, "call")
    total, calls = numbers(table, "total_ns"), numbers(table, "calls")
    found: dict[str, Floats] = {}
    for row in np.flatnonzero(rows_with(table, "stage", stage) & (at >= 0)).tolist():
        mine = found.setdefault(names[codes[row]], np.zeros((2, len(side.step))))
        mine[:, at[row]] += total[row], calls[row]
    return found


def _places(steps: Ints, asked: Ints) -> Ints:
    """Return where each number stands among the paired steps, -1 for none."""
    if not len(steps):
        return np.full(len(asked), -1, np.int64)
    order = np.argsort(steps)
    at = np.minimum(np.searchsorted(steps[order], asked), len(steps) - 1)
    return np.where(steps[order][at] == asked, order[at], -1)


def busy_cells(pair: StagePair, a: Operations, b: Operations) -> Cells:
    """Return the kernels of a stage in both runs: plain durations, so that no kernel hides behind another."""
    one, two = a.cells(pair.stage, pair.a), b.cells(pair.stage, pair.b)
    cells = sorted({*one[0], *two[0]})
    place = {cell: at for at, cell in enumerate(cells)}
    sides = []
    for (found, times, count), side in ((one, pair.a), (two, pair.b)):
        at = [place[cell] for cell in found]
        sides.append([_spread_out(values, at, len(cells), side) for values in (times, count)])
    (a_times, a_count), (b_times, b_count) = sides
    return Cells(cells=cells, a=a_times, b=b_times, a_count=_mean(a_count), b_count=_mean(b_count))


def row_cells(pair: StagePair) -> Cells:
    """Return the busy time of a stage's rows in both runs, for joins that have no kernels: their names are empty."""
    cells = [Cell(key.module, key.kind, key.layer, "") for key in pair.keys]
    everywhere = range(len(cells))
    (a, a_count), (b, b_count) = (
        [
            _spread_out(side.values[at].astype(np.float64), everywhere, len(cells), side)
            for at in (0, COUNTS["launches"])
        ]
        for side in (pair.a, pair.b)
    )
    return Cells(cells=cells, a=a, b=b, a_count=_mean(a_count), b_count=_mean(b_count))


def _spread_out(values: Floats, at: Sequence[int], count: int, side: Side) -> Floats:
    """Return values per unit, each in its place among all cells."""
    made = np.zeros((count, values.shape[1]))
    made[at] = values * (values.shape[1] / max(side.units, 1))
    return made


def _mean(values: Floats) -> Floats:
    return np.asarray(values.mean(axis=1) if values.shape[1] else np.zeros(len(values)))


def idle_cells(pair: StagePair) -> Cells:
    """Return the idle times of a stage's rows in both runs, by cause."""
    parts = PARTS[1:]
    cells = [Cell(key.module, key.kind, key.layer, part) for part in parts for key in pair.keys]

    def times(side: Side) -> Floats:
        values = side.values[1 : len(PARTS)].reshape(len(cells), -1)
        return np.asarray(values * (values.shape[1] / max(side.units, 1)), np.float64)

    def calls(side: Side) -> Floats:
        return np.tile(_mean(side.values[COUNTS["calls"]].astype(np.float64)), len(parts))

    return Cells(cells=cells, a=times(pair.a), b=times(pair.b), a_count=calls(pair.a), b_count=calls(pair.b))


def rows_by_key(pair: StagePair) -> Mapping[tuple[str, str, int], int]:
    """Return the row of the pair at each (module, kind, layer)."""
    return {(key.module, key.kind, key.layer): at for at, key in enumerate(pair.keys)}
