"""The roofline chart as plain data: axes, roofs with their names, and one point per row. Coordinates are SVG units."""

import math
from collections.abc import Mapping, Sequence

from attrs import frozen

from dsocr_nvtx.report.axes import LogAxis, around, scaled
from dsocr_nvtx.schema.hardware import DATASHEET, Ceilings

WIDTH, HEIGHT = 960, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 96, 12, 14, 48
_LARGEST, _SMALLEST = 30.0, 3.0


@frozen
class Roof:
    """A roof as a line from (x1, y1) to (x2, y2), with its name and rate at (x, y), turned by ``angle`` degrees."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    x: float
    y: float
    angle: float
    is_nominal: bool


@frozen
class Point:
    """A row at (x, y); ``shape`` is an SVG path around the origin whose area stands for its wall time."""

    row: int
    x: float
    y: float
    shape: str


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
    """A roof before it is drawn, in FLOP/s or B/s: where along its line the name stands, and how far off it."""

    name: str
    rate: float
    along: float
    off: float
    is_nominal: bool = False


def chart(rows: Sequence[Mapping[str, object]], roofs: Ceilings, dtype: str) -> Chart:
    """Return the chart of ROOFLINE rows, largest point first, under the roofs for matrices of ``dtype``.

    Where the roofs were measured, the datasheet's are drawn beside them.
    """
    placed = [(number, *place) for number, row in enumerate(rows) if (place := _place(row)) is not None]
    flat, steep = _rates(roofs, dtype)
    top = max((one.rate for one in flat), default=1.0)
    ridges = [top / one.rate for one in steep]
    x = LogAxis(*around([*(p[1] for p in placed), *ridges, 1.0]), _LEFT, WIDTH - _RIGHT)
    y = LogAxis(*around([*(p[2] for p in placed), top]), HEIGHT - _BOTTOM, _TOP)
    longest = max((p[3] for p in placed), default=1.0)
    fastest = max((one.rate for one in steep if not one.is_nominal), default=1.0)
    return Chart(
        roofs=(*(_flat(one, fastest, x, y) for one in flat), *(_steep(one, top, x, y) for one in steep)),
        points=tuple(
            Point(number, x.at(i), y.at(f), _shape(str(rows[number]["stage"]), wall / longest))
            for number, i, f, wall in sorted(placed, key=lambda p: -p[3])
        ),
        x_ticks=tuple((x.at(value), f"{value:g}") for value in x.decades()),
        y_ticks=tuple((y.at(value), scaled(value, "FLOP/s")) for value in y.decades()),
        undrawn=len(rows) - len(placed),
    )


def _rates(roofs: Ceilings, dtype: str) -> tuple[list[_Rate], list[_Rate]]:
    if not roofs.is_known:
        return [], []
    sheet = DATASHEET.get(roofs.device)
    flat = [_Rate("vector float32", roofs.vector, 0.35, -5)]
    steep = [_Rate("DRAM", roofs.bandwidth, 0.5, 16)]
    if (peak := roofs.tensor_peak(dtype)) is not None:
        flat.append(_Rate(f"matrix {dtype}", peak, 1.0, -5))
    if roofs.l2_bandwidth:
        steep.append(_Rate("L2", roofs.l2_bandwidth, 0.5, -6))
    if sheet is not None and sheet.source != roofs.source:
        steep.append(_Rate("datasheet DRAM", sheet.bandwidth, 0.2, 16, is_nominal=True))
        if (peak := sheet.tensor_peak(dtype)) is not None:
            flat.append(_Rate(f"datasheet {dtype}", peak, 0.3, -5, is_nominal=True))
    return flat, steep


def _place(row: Mapping[str, object]) -> tuple[float, float, float] | None:
    """Return (FLOP per byte, FLOP/s, wall time) of a row, None where a logarithm has no place for it."""
    flops = float(str(row["tensor_flops"])) + float(str(row["vector_flops"]))
    busy, intensity = float(str(row["busy_owned_ns"])), row["intensity"]
    if flops <= 0 or busy <= 0 or not isinstance(intensity, float) or intensity <= 0:
        return None
    return intensity, flops / busy * 1e9, max(float(str(row["wall_ns"])), 1.0)


def _flat(one: _Rate, fastest: float, x: LogAxis, y: LogAxis) -> Roof:
    begin, height = x.at(min(max(one.rate / fastest, x.low), x.high)), y.at(one.rate)
    at = round(begin + one.along * (x.end - 4 - begin), 1)
    text = f"{one.name} {scaled(one.rate, 'FLOP/s')}"
    return Roof(text, begin, height, x.end, height, at, height + one.off, 0, one.is_nominal)


def _steep(one: _Rate, top: float, x: LogAxis, y: LogAxis) -> Roof:
    low, high = max(x.low, y.low / one.rate), min(top / one.rate, x.high)
    x1, y1, x2, y2 = x.at(low), y.at(low * one.rate), x.at(high), y.at(high * one.rate)
    turn = math.atan2(y2 - y1, x2 - x1)
    at = (
        x1 + one.along * (x2 - x1) - one.off * math.sin(turn),
        y1 + one.along * (y2 - y1) + one.off * math.cos(turn),
    )
    text = f"{one.name} {scaled(one.rate, 'B/s')}"
    return Roof(text, x1, y1, x2, y2, round(at[0], 1), round(at[1], 1), round(math.degrees(turn), 1), one.is_nominal)


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
