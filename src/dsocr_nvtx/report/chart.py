"""The roofline chart as plain data: axes, roofs with their names, and one point per row. Coordinates are SVG units."""

import math
from collections.abc import Mapping, Sequence

from attrs import frozen

from dsocr_nvtx.report.axes import LogAxis, around, scaled
from dsocr_nvtx.report.labels import Label, Segment, Words, along, beside
from dsocr_nvtx.report.marks import Mark, folded
from dsocr_nvtx.schema.hardware import DATASHEET, Ceilings

WIDTH, HEIGHT = 960, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 112, 12, 14, 48
_LARGEST, _SMALLEST = 30.0, 3.0
_LABELLED = 12
"""Marks that get a name, those of most wall time."""


@frozen
class Roof:
    """A roof as a line from (x1, y1) to (x2, y2), and its name and rate where there is room beside it."""

    line: Segment
    label: Label | None
    is_nominal: bool


@frozen
class Point:
    """A row at (x, y), or ``rows`` of equal layers there; ``shape`` is an SVG path around the origin.

    Its area stands for the wall time of all of them. ``label`` names what matters most, where there is room. At
    ``moved_x`` it would be by the bytes that the implementation moves, None where they are not known.
    """

    rows: tuple[int, ...]
    x: float
    y: float
    shape: str
    moved_x: float | None = None
    label: Label | None = None


@frozen
class Chart:
    """Everything that is drawn, and how many rows have no place: no FLOPs or bytes, or no busy time."""

    roofs: tuple[Roof, ...]
    points: tuple[Point, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    undrawn: int
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


@frozen
class _Rate:
    """A roof before it is drawn, in FLOP/s or B/s."""

    name: str
    rate: float
    is_nominal: bool = False


def chart(rows: Sequence[Mapping[str, object]], roofs: Ceilings, dtype: str) -> Chart:
    """Return the chart of ROOFLINE rows, largest point first, under the roofs for matrices of ``dtype``.

    Where the roofs were measured, the datasheet's are drawn beside them.
    """
    marks = folded(rows)
    flat, steep = _rates(roofs, dtype)
    top = max((one.rate for one in flat), default=1.0)
    ridges = [top / one.rate for one in steep]
    x = LogAxis(*around([*(m.intensity for m in marks), *ridges, 1.0]), _LEFT, WIDTH - _RIGHT)
    y = LogAxis(*around([*(m.rate for m in marks), top]), HEIGHT - _BOTTOM, _TOP)
    fastest = max((one.rate for one in steep if not one.is_nominal), default=1.0)
    lines = [*(_flat(one, fastest, x, y) for one in flat), *(_steep(one, top, x, y) for one in steep)]
    longest = max((mark.wall for mark in marks), default=1.0)
    sizes = [_reach(mark.wall / longest) for mark in marks]
    places = [(x.at(mark.intensity), y.at(mark.rate)) for mark in marks]
    kept = [(*place, size) for place, size in zip(places, sizes, strict=True)]
    words = Words(_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM, lines, kept)
    named = [*(f"{one.name} {scaled(one.rate, 'FLOP/s')}" for one in flat)]
    named += [f"{one.name} {scaled(one.rate, 'B/s')}" for one in steep]
    drawn = [
        Roof(line, words.place(along(name, line), line), one.is_nominal)
        for one, line, name in zip([*flat, *steep], lines, named, strict=True)
    ]
    return Chart(
        roofs=tuple(drawn),
        points=tuple(
            _point(mark, rows, x, at, longest, words if number < _LABELLED else None)
            for number, (mark, at) in enumerate(zip(marks, kept, strict=True))
        ),
        x_ticks=tuple((x.at(value), f"{value:g}") for value in x.decades()),
        y_ticks=tuple((y.at(value), scaled(value, "FLOP/s")) for value in y.decades()),
        undrawn=len(rows) - sum(len(mark.rows) for mark in marks),
    )


def _point(
    mark: Mark, rows: Sequence[Mapping[str, object]], x: LogAxis, at: tuple[float, float, float], longest: float,
    words: Words | None,
) -> Point:  # fmt: skip
    """Return a mark as a point at (x, y), which reaches so far; with ``words`` it gets its name where there is room."""
    label = words.place(beside(mark.name, *at)) if words is not None else None
    moved = x.at(max(mark.moved, x.low)) if mark.moved is not None else None
    shape = _shape(str(rows[mark.rows[0]]["stage"]), mark.wall / longest)
    return Point(mark.rows, at[0], at[1], shape, moved, label)


def _reach(share: float) -> float:
    """Return how far a mark of some share of the largest reaches from its middle: a diamond's corner does most."""
    return math.sqrt(max(share * _LARGEST**2, _SMALLEST**2) * math.pi / 2)


def _rates(roofs: Ceilings, dtype: str) -> tuple[list[_Rate], list[_Rate]]:
    if not roofs.is_known:
        return [], []
    sheet = DATASHEET.get(roofs.device)
    flat = [_Rate("vector float32", roofs.vector)]
    steep = [_Rate("DRAM", roofs.bandwidth)]
    if (peak := roofs.tensor_peak(dtype)) is not None:
        flat.append(_Rate(f"matrix {dtype}", peak))
    if roofs.l2_bandwidth:
        steep.append(_Rate("L2", roofs.l2_bandwidth))
    if sheet is not None and sheet.source != roofs.source:
        steep.append(_Rate("datasheet DRAM", sheet.bandwidth, is_nominal=True))
        if (peak := sheet.tensor_peak(dtype)) is not None:
            flat.append(_Rate(f"datasheet {dtype}", peak, is_nominal=True))
    return flat, steep


def _flat(one: _Rate, fastest: float, x: LogAxis, y: LogAxis) -> Segment:
    height = y.at(one.rate)
    return x.at(min(max(one.rate / fastest, x.low), x.high)), height, x.end, height


def _steep(one: _Rate, top: float, x: LogAxis, y: LogAxis) -> Segment:
    low, high = max(x.low, y.low / one.rate), min(top / one.rate, x.high)
    return x.at(low), y.at(low * one.rate), x.at(high), y.at(high * one.rate)


def _shape(stage: str, share: float) -> str:
    """Return a circle (vision), square (prefill), diamond (decode) or triangle whose area is a share of the largest."""
    area = max(share * _LARGEST**2, _SMALLEST**2)
    circle, square = math.sqrt(area), math.sqrt(math.pi * area) / 2
    r, s, d, t = (round(v, 1) for v in (circle, square, square * math.sqrt(2), circle * 1.5))
    return {
        "vision": f"M{-r} 0a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        "prefill": f"M{-s} {-s}h{2 * s}v{2 * s}h{-2 * s}z",
        "decode": f"M0 {-d}L{d} 0L0 {d}L{-d} 0z",
    }.get(stage, f"M0 {-t}L{t} {t}L{-t} {t}z")
