"""Sections of the review page that are drawn: heat map, decode steps, experts, ladder. Plain data, SVG units."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from attrs import frozen

from dsocr_nvtx.report import words
from dsocr_nvtx.report.advice import RUNG_WORDS, milliseconds_of
from dsocr_nvtx.roofline.evidence import Steps

Row = Mapping[str, object]
MOST_BARS = 240
"""Bars that a drawing of steps can hold; more steps are averaged, and the page says over how many."""


@frozen
class Cell:
    """A square of the heat map: lost time, its share of the largest in percent, and the rows it stands for."""

    text: str
    title: str
    heat: float
    rows: tuple[int, ...]


@frozen
class Heat:
    """Lost time of one stage by place (lines) and kind (columns); None where the network has nothing."""

    stage: str
    kinds: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Cell | None, ...]], ...]


@frozen
class Bar:
    """Some steps: their mean busy and idle time, as heights from the ground in percent of the highest."""

    label: str
    busy: float
    wall: float
    kv_len: int


@frozen
class StepBars:
    """The steps of a stage in order, ``each`` of them to a bar; ``highest`` is the tallest bar in words."""

    stage: str
    who: str
    bars: tuple[Bar, ...]
    steps: int
    each: int
    highest: str
    kv_first: int
    kv_last: int
    kv_line: str


@frozen
class Expert:
    """A layer's experts in a stage: distinct ones hit on average, by uniform routing, and each one's share of rows."""

    layer: int
    stage: str
    distinct: str
    expected: str
    imbalance: str
    heats: tuple[tuple[float, str], ...]


@frozen
class Rung:
    """A rung of the ladder: time per step, between which bounds, what it would bring, and what it assumes."""

    stage: str
    name: str
    step: str
    bounds: str
    speedup: str
    percent: float
    assumes: str


def heat_maps(rows: Sequence[Row]) -> list[Heat]:
    """Return one heat map a stage, in the order in which stages first lose time."""
    return [_heat(str(stage), rows) for stage in dict.fromkeys(row["stage"] for row in rows)]


def _heat(stage: str, rows: Sequence[Row]) -> Heat:
    cells: dict[tuple[str, int], dict[str, list[int]]] = {}
    for number, row in enumerate(rows):
        if row["stage"] == stage:
            layer = row["layer"]
            place = (str(row["module"]), -1 if layer is None else int(str(layer)))
            cells.setdefault(place, {}).setdefault(str(row["kind"]), []).append(number)
    kinds = sorted({kind for line in cells.values() for kind in line}, key=lambda kind: (kind == "rest", kind))
    lost = {
        (place, kind): sum(int(str(rows[n]["lost_ns"])) for n in numbers)
        for place, line in cells.items()
        for kind, numbers in line.items()
    }
    most = max(lost.values(), default=0)
    return Heat(
        stage,
        tuple(kinds),
        tuple(
            (
                f"{place[0]}.{place[1]}" if place[1] >= 0 else place[0],
                tuple(_cell(line.get(kind), lost.get((place, kind), 0), most, place, kind) for kind in kinds),
            )
            for place, line in sorted(cells.items())
        ),
    )


def _cell(numbers: list[int] | None, lost: int, most: int, place: tuple[str, int], kind: str) -> Cell | None:
    if numbers is None:
        return None
    share = max(lost, 0) / most if most > 0 else 0.0
    name = f"{place[0]}{'' if place[1] < 0 else f'.{place[1]}'} {kind}"
    return Cell(
        words.milliseconds(lost),
        f"{name}: {words.milliseconds(lost)} ms lost",
        _log_heat(share),
        tuple(numbers),
    )


_DECADES = 3
"""Below the largest, over which colours of the heat map fade: rows differ by powers of ten."""


def _log_heat(share: float) -> float:
    """Return 100 for the largest, 0 for a thousandth of it and less, and as many steps for each power of ten."""
    return round(100 * max(1 + math.log10(share) / _DECADES, 0.0), 1) if share > 0 else 0.0


def step_bars(steps: Steps, who: str = "") -> StepBars | None:
    """Return the bars of a stage with more than one step."""
    count = len(steps.step)
    if count < 2:
        return None
    each = -(-count // MOST_BARS)
    edges = np.arange(0, count, each)
    size = np.diff([*edges, count])
    busy, idle = np.add.reduceat(steps.busy_ns, edges) / size, np.add.reduceat(steps.idle_ns, edges) / size
    kv_len = np.maximum.reduceat(steps.kv_len, edges)
    # A first step that captures a graph is far longer than the rest: the axis is that of the others, the bar is cut.
    highest = float(max(np.percentile(busy + idle, 98) * 1.15, 1.0))
    names = [_steps_word(steps, first, n) for first, n in zip(edges.tolist(), size.tolist(), strict=True)]
    bars = [
        _bar(name, float(b), float(b + i), int(k), highest)
        for name, b, i, k in zip(names, busy, idle, kv_len, strict=True)
    ]
    low, high = int(kv_len.min()), max(int(kv_len.max()), 1)
    line = " ".join(
        f"{(at + 0.5) / len(bars) * 100:.2f},{100 - (k - low * 0.98) / (high - low * 0.98 or 1) * 92:.2f}"
        for at, k in enumerate(kv_len.tolist())
    )
    return StepBars(steps.stage, who, tuple(bars), count, each, words.milliseconds(highest), low, int(kv_len[-1]), line)


def _bar(name: str, busy: float, wall: float, kv_len: int, highest: float) -> Bar:
    text = f"{name}: {words.milliseconds(wall)} ms, busy {words.milliseconds(busy)} ms, KV {kv_len:,}"
    low, high = (round(min(ns / highest, 1) * 100, 2) for ns in (busy, wall))
    return Bar(text, low, high, kv_len)


def _steps_word(steps: Steps, first: int, count: int) -> str:
    start, end = int(steps.step[first]), int(steps.step[first + count - 1])
    return f"step {start}" if count == 1 else f"steps {start} to {end}"


def experts(rows: Sequence[Row]) -> list[Expert]:
    """Return what was observed of routed experts, one line per stage and layer."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((str(row["stage"]), int(str(row["layer"]))), []).append(row)
    return [_expert(stage, layer, calls) for (stage, layer), calls in sorted(found.items(), key=lambda item: item[0])]


def _expert(stage: str, layer: int, calls: Sequence[Row]) -> Expert:
    got = np.sum([np.asarray(call["rows_per_expert"], np.int64) for call in calls], axis=0)
    distinct, expected = (
        float(np.mean([float(str(call[name])) for call in calls])) for name in ("distinct_experts", "expected_experts")
    )
    most = max(int(got.max()), 1)
    mean = got.mean()
    heats = tuple(
        (round((value / most) ** 0.5 * 100, 1), f"expert {at}: {value:,} rows") for at, value in enumerate(got.tolist())
    )
    imbalance = f"{got.max() / mean:.1f}x" if mean else "-"
    return Expert(layer, stage, f"{distinct:.1f}", f"{expected:.1f}", imbalance, heats)


def rungs(table: Sequence[Row]) -> list[Rung]:
    """Return the ladder's rungs, each as long as its share of the stage as measured."""
    now = {
        (row["pid"], row["device"], row["stage"]): float(str(row["total_ns"])) for row in table if row["rung"] == "now"
    }
    found = []
    for row in table:
        steps = max(int(str(row["steps"])), 1)
        low, likely, high = (float(str(row[name])) for name in ("low_ns", "total_ns", "high_ns"))
        whole = now[row["pid"], row["device"], row["stage"]]
        found.append(
            Rung(
                stage=str(row["stage"]),
                name=RUNG_WORDS.get(str(row["rung"]), str(row["rung"])),
                step=milliseconds_of(likely / steps),
                bounds="" if low == high else f"{milliseconds_of(low / steps)} to {milliseconds_of(high / steps)}",
                speedup=words.decimal(row["speedup"], 1) + "x" if row["speedup"] is not None else "-",
                percent=round(min(likely / whole, 1) * 100, 2) if whole else 0.0,
                assumes=str(row["assumes"]),
            )
        )
    return found
