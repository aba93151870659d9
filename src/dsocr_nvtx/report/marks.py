"""The marks of a roofline chart: a row each, or the rows of equal layers as one, with a count."""

import math
from collections.abc import Mapping, Sequence

from attrs import frozen

from dsocr_nvtx.roofline.least import MOVED

_APART = 0.15
"""Decades of intensity and rate, and of wall time, that equal layers lie apart at most: a factor of 1.4."""


@frozen(kw_only=True)
class Mark:
    """Rows at one place: FLOP per byte of the lower bound, FLOP/s while busy, and wall time in ns of all of them.

    ``moved`` is FLOP per byte that the implementation moves, None where that is not known.
    """

    rows: tuple[int, ...]
    name: str
    intensity: float
    rate: float
    wall: float
    moved: float | None


@frozen
class _Place:
    """A row's logarithms of intensity, rate and wall time, its FLOPs and busy ns, and the bytes it moves."""

    row: int
    at: tuple[float, float, float]
    flops: float
    busy: float
    bytes: float
    moved: float
    wall: float


def folded(rows: Sequence[Mapping[str, object]]) -> list[Mark]:
    """Return the marks of ROOFLINE rows that have a place, the longest wall time first.

    Layers of one stage, module and kind are equal where they lie close to each other, in wall time too: one that waits
    longer than the others stays a mark of its own.
    """
    alike: dict[tuple[object, ...], list[_Place]] = {}
    for number, row in enumerate(rows):
        place = _place(number, row)
        if place is not None:
            key = tuple(row.get(name) for name in ("pid", "device", "stage", "module", "kind", "bound"))
            alike.setdefault(key, []).append(place)
    groups = [group for places in alike.values() for group in _close(places)]
    return sorted((_mark(group, rows) for group in groups), key=lambda mark: -mark.wall)


def _close(places: list[_Place]) -> list[list[_Place]]:
    """Return groups of places, each close to the first of its group."""
    found: list[list[_Place]] = []
    for place in places:
        for group in found:
            if all(abs(a - b) <= _APART for a, b in zip(place.at, group[0].at, strict=True)):
                group.append(place)
                break
        else:
            found.append([place])
    return found


def _mark(group: Sequence[_Place], rows: Sequence[Mapping[str, object]]) -> Mark:
    flops, busy, total, moved = (
        sum(getattr(one, name) for one in group) for name in ("flops", "busy", "bytes", "moved")
    )
    return Mark(
        rows=tuple(one.row for one in group),
        name=_name([rows[one.row] for one in group]),
        intensity=flops / total,
        rate=flops / busy * 1e9,
        wall=sum(one.wall for one in group),
        moved=flops / moved if moved else None,
    )


def _name(rows: Sequence[Mapping[str, object]]) -> str:
    """Return what rows are called: ``decoder experts x11``, or of one ``decoder.3 experts``."""
    row = rows[0]
    layer = "" if row["layer"] is None or len(rows) > 1 else f".{row['layer']}"
    count = f" x{len(rows)}" if len(rows) > 1 else ""
    kind = "" if row["kind"] == row["module"] else f" {row['kind']}"
    return f"{row['stage']} {row['module']}{layer}{kind}{count}"


def _place(number: int, row: Mapping[str, object]) -> _Place | None:
    """Return where a row lies, None where a logarithm has no place for it, or its costs are not known for sure."""
    flops = float(str(row["tensor_flops"])) + float(str(row["vector_flops"]))
    busy, intensity = float(str(row["busy_owned_ns"])), row["intensity"]
    if flops <= 0 or busy <= 0 or not isinstance(intensity, float) or intensity <= 0:
        return None
    wall = max(float(str(row["wall_ns"])), 1.0)
    total = sum(float(str(row[name])) for name in MOVED)
    at = (math.log10(intensity), math.log10(flops / busy), math.log10(wall))
    return _Place(number, at, flops, busy, total, float(str(row.get("op_bytes") or 0)), wall)
