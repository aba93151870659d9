"""From a pair of stage cubes to the series that are judged: of every row, every layer, and the stage."""

from collections.abc import Sequence

import numpy as np

from dsocr_nvtx.compare.judging import Series
from dsocr_nvtx.compare.pairs import Side, StagePair
from dsocr_nvtx.compare.steps import COUNTS, PARTS, Key
from dsocr_nvtx.join.columns import Ints
from dsocr_nvtx.roofline.least import Floats

NO_STEP = "no step stands beside another"
"""Why nothing can be said of a stage whose steps ran in one of the runs alone."""


def row_series(pair: StagePair) -> list[Series]:
    """Return the series of each row that runs in steps."""
    return [_series(pair, [row], likeness=True) for row in range(len(pair.keys))]


def layer_series(pair: StagePair) -> list[tuple[Key, Series]]:
    """Return the series of each layer that has more than one row, under a key without a kind."""
    layers: dict[tuple[str, int], list[int]] = {}
    for row, key in enumerate(pair.keys):
        if key.layer >= 0:
            layers.setdefault((key.module, key.layer), []).append(row)
    return [
        (Key(module, "", layer, "run"), _series(pair, rows, likeness=True))
        for (module, layer), rows in layers.items()
        if len(rows) > 1
    ]


def stage_series(pair: StagePair, rows: Sequence[int] | None = None, idle: Sequence[str] = PARTS[1:]) -> Series:
    """Return the series of a stage, or of some of its rows; ``idle`` names the parts that count as idle."""
    return _series(pair, range(len(pair.keys)) if rows is None else rows, likeness=False, idle=idle)


def count_per_unit(side: Side, name: str, rows: Sequence[int]) -> float:
    """Return how many launches or calls some rows have per unit."""
    return float(side.values[COUNTS[name]][list(rows)].sum()) / max(side.units, 1)


def _series(pair: StagePair, rows: Sequence[int], *, likeness: bool, idle: Sequence[str] = PARTS[1:]) -> Series:
    rows = list(rows)
    waits = row_times(pair.a, rows, idle), row_times(pair.b, rows, idle)
    return Series(
        busy=(row_times(pair.a, rows, PARTS[:1]), row_times(pair.b, rows, PARTS[:1])),
        idle=waits,
        launches=(usual_count(pair.a, "launches", rows), usual_count(pair.b, "launches", rows)),
        launch_spread=_launch_spread(pair, rows),
        call_spread=call_spread(pair, rows),
        likeness=_likeness(pair, rows) if likeness and rows else object(),
        is_row=len(rows) == 1,
        comparable=unlike(pair, rows),
    )


def _launch_spread(pair: StagePair, rows: Sequence[int]) -> float:
    """Return how many launches' times drift as one: those of a kind do, kinds drift apart."""
    kinds: dict[str, float] = {}
    for row in rows:
        kind = pair.keys[row].kind
        kinds[kind] = kinds.get(kind, 0.0) + _both(pair, "launches", [row])
    return float(np.sqrt(sum(count**2 for count in kinds.values())))


def call_spread(pair: StagePair, rows: Sequence[int]) -> float:
    """Return how many calls' idle times wander as one; calls that own none, as those of a replayed graph, do not."""
    if len(rows) == 1:
        return _both(pair, "calls", rows)
    waiting = [row for row in rows if any(side.values[1 : len(PARTS), row].any() for side in (pair.a, pair.b))]
    return float(np.sqrt(_both(pair, "calls", waiting)))


def _likeness(pair: StagePair, rows: Sequence[int]) -> object:
    """Return what peers share: module, and of each row kind, shapes, launches and calls a step."""
    counts = (tuple(usual_count(pair.a, name, [row]) for name in COUNTS) for row in rows)
    shapes = (tuple(sorted(pair.a.shapes[row])) for row in rows)
    return pair.keys[rows[0]].module, *zip((pair.keys[row].kind for row in rows), shapes, counts, strict=True)


def _both(pair: StagePair, name: str, rows: Sequence[int]) -> float:
    return (usual_count(pair.a, name, rows) + usual_count(pair.b, name, rows)) / 2


def row_times(side: Side, rows: Sequence[int], parts: Sequence[str]) -> Floats:
    """Return the time of some rows in each paired step, ns per unit: the sum of some of `PARTS`."""
    index = [PARTS.index(part) for part in parts]
    total: Ints = side.values[index][:, list(rows)].sum(axis=(0, 1))
    steps = max(total.shape[0], 1)
    return np.asarray(total * (steps / max(side.units, 1)), np.float64)


def usual_count(side: Side, name: str, rows: Sequence[int]) -> float:
    """Return the median count per step."""
    total = side.values[COUNTS[name]][list(rows)].sum(axis=0)
    return float(np.median(total)) if len(total) else 0.0


def unlike(pair: StagePair, rows: Sequence[int]) -> str:
    """Return why rows are no equal work in both runs, or nothing."""
    if rows and not pair.steps:
        return NO_STEP
    for side, other in ((pair.a, "B"), (pair.b, "A")):
        if rows and not any(side.present[row] for row in rows):
            return f"only in {other}"
    for row in rows:
        a, b = pair.a.shapes[row], pair.b.shapes[row]
        if a != b and a and b:
            return f"shapes differ: {_shape(a - b or a)} against {_shape(b - a or b)}"
        if pair.unit == "token":
            return "tokens a step differ"
        if not pair.same_cache and (pair.a.reads_cache[row] or pair.b.reads_cache[row]):
            return "KV lengths differ"
    return ""


def _shape(shapes: frozenset[tuple[int, int]]) -> str:
    return ", ".join(f"{batch}x{tokens}" for batch, tokens in sorted(shapes))
