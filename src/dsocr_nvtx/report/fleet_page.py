"""The review page of a fleet: ranks as rows, stages as columns, outliers named, one click to each rank's own page.

Static HTML without scripts or outside links; whatever a report says is escaped. The page shows the `MOST_ROWS` slowest
ranks, so that its size has a bound whatever the fleet's.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from dsocr_nvtx.fleet.engine import Fleet
from dsocr_nvtx.fleet.notes import by_slowdown, has_ranks, rank_name, slowness, usual_times
from dsocr_nvtx.fleet.parts import read_part
from dsocr_nvtx.fleet.spread import SLOW
from dsocr_nvtx.fleet.state import PAGES, Folders
from dsocr_nvtx.report.page import asset, environment
from dsocr_nvtx.schema.files import write_text

MOST_ROWS: Final = 1000
OUTLIERS: Final = 20
PAGE: Final = "fleet.html"
_SHOWN: Final = (
    "rank", "stage", "module", "kind", "layer", "calls", "wall_ns", "busy_owned_ns", "idle_owned_ns", "roofline_ns",
    "lost_ns", "efficiency", "bound",
)  # fmt: skip


@frozen(kw_only=True)
class Cell:
    """One rank in one stage. ``heat`` is 0 (usual) to 4 (1.5 times the usual time or more)."""

    wall_ms: float
    slowdown: float | None
    cause: str
    heat: int


@frozen(kw_only=True)
class Row:
    """One rank: who it is, where its page is, and its cell in each stage that it has."""

    report: str
    rank: int
    pid: int
    host: str
    gpu: str
    pages: int | None
    clock_mhz: float | None
    throttle: str
    link: str
    wall_ms: float
    cells: Mapping[str, Cell] = field(factory=dict)


@frozen(kw_only=True)
class FleetModel:
    """What the page shows: stages with their spread, rows slowest first, outliers as sentences, what failed.

    ``named``: whether the reports have ranks other than 0; else a rank goes by its report.
    """

    reports: int
    ranks: int
    stages: tuple[Mapping[str, Any], ...]
    rows: tuple[Row, ...]
    outliers: tuple[str, ...]
    cautions: tuple[str, ...]
    named: bool
    failed: tuple[tuple[str, str], ...]
    slow: float = SLOW


def fleet_model(found: Fleet) -> FleetModel:
    """Return what the page of a fleet shows."""
    by_rank: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    named, usual = has_ranks(found.ranks), usual_times(found.ranks)
    for row in found.ranks.to_pylist():
        by_rank[row["report"], row["pid"]].append(row)
    rows = sorted((_row(cells) for cells in by_rank.values()), key=lambda row: -row.wall_ms)
    return FleetModel(
        reports=len(found.states),
        ranks=len(rows),
        stages=tuple(_stage(row, usual[row["stage"]], named=named) for row in found.stages.to_pylist()),
        rows=tuple(rows[:MOST_ROWS]),
        outliers=tuple(_sentences(by_slowdown(found.ranks), named=named)),
        cautions=tuple(found.cautions),
        named=named,
        failed=tuple((state.name, state.error) for state in found.failed),
    )


def _stage(row: Mapping[str, Any], usual: int, *, named: bool) -> Mapping[str, Any]:
    slowest = rank_name(row["slowest_rank"], row["slowest_report"], named=named)
    return {**row, "slowest": slowest, "usual_wall_ns": usual}


def _row(cells: list[dict[str, Any]]) -> Row:
    one = cells[0]
    return Row(
        report=one["report"],
        rank=one["rank"],
        pid=one["pid"],
        host=one["host"] or "",
        gpu=one["gpu_uuid"] or "",
        pages=one["pages"],
        clock_mhz=one["sm_clock_mhz"],
        throttle=one["throttle"] or "",
        link=f"{PAGES}/{one['report']}.html",
        wall_ms=sum(cell["wall_ns"] for cell in cells) / 1e6,
        cells={cell["stage"]: _cell(cell) for cell in cells},
    )


def _cell(row: Mapping[str, Any]) -> Cell:
    times = row["slowdown"] or 1.0
    heat = 0 if row["cause"] == "none" else min(4, 1 + int((times - SLOW) / 0.15))
    return Cell(wall_ms=row["wall_ns"] / 1e6, slowdown=row["slowdown"], cause=row["cause"], heat=heat)


_WORDS: Final = {
    "work": "it had more work", "device": "its GPU took longer for the same work", "waiting": "its GPU waited longer",
}  # fmt: skip


def _sentences(slow: Sequence[Mapping[str, Any]], *, named: bool) -> list[str]:
    """Return one sentence per slow rank and stage."""
    found = []
    for row in slow[:OUTLIERS]:
        clock = ""
        if row["sm_clock_mhz"] is not None:
            held = f", held down by {row['throttle']}" if row["throttle"] else ""
            clock = f" (SM clock {row['sm_clock_mhz']:,.0f} MHz{held})"
        beyond = (row["wall_ns"] - row["usual_wall_ns"]) / 1e6
        found.append(
            f"{row['stage']}: {rank_name(row['rank'], row['report'], row['host'], named=named)} takes "
            f"{slowness(row)}, {beyond:,.2f} ms more: {_WORDS[row['cause']]}{clock}"
        )
    if len(slow) > OUTLIERS:
        found.append(f"and {len(slow) - OUTLIERS:,} more")
    return found


def write_fleet_pages(found: Fleet) -> Path:
    """Write the fleet's page and one page for each rank that it shows; return the former's path."""
    made, style = environment(), asset("review.css")
    model, folders = fleet_model(found), Folders(found.out)
    shown = sorted({row.report for row in model.rows})
    wanted = {f"{name}.html" for name in shown}
    for old in (found.out / PAGES).glob("*.html"):
        if old.name not in wanted:
            old.unlink()
    page = made.get_template("rank.html.j2")
    for name in shown:
        rows = read_part(folders, "roofline", name).select(_SHOWN).to_pylist()
        write_text(
            page.render(name=name, path=found.states[name].path, rows=rows, style=style),
            found.out / PAGES / f"{name}.html",
        )
    write_text(made.get_template("fleet.html.j2").render(model=model, style=style), found.out / PAGE)
    return found.out / PAGE
