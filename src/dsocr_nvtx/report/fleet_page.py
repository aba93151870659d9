"""The review page of a fleet: ranks as rows, stages as columns, outliers named, one click to each rank's own page.

Static HTML without scripts or outside links; whatever a report says is escaped. The page shows the `MOST_ROWS` slowest
ranks, so that its size has a bound whatever the fleet's; the `MOST_PAGES` slowest have their whole review beside it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from dsocr_nvtx.fleet.engine import Fleet
from dsocr_nvtx.fleet.notes import by_slowdown, has_ranks, rank_name, slowness
from dsocr_nvtx.fleet.spread import SLOW
from dsocr_nvtx.fleet.state import PAGES, Folders
from dsocr_nvtx.report.fleet_terminal import fleet_stages
from dsocr_nvtx.report.opened import open_part
from dsocr_nvtx.report.page import asset, environment, review_page
from dsocr_nvtx.schema.files import write_text
from dsocr_nvtx.schema.joins import Part

MOST_ROWS: Final = 1000
MOST_PAGES: Final = 200
"""Ranks whose review is written, the slowest; `report OUT/NAME` writes any other's."""
OUTLIERS: Final = 20
PAGE: Final = "fleet.html"


@frozen(kw_only=True)
class Cell:
    """One rank in one stage. ``heat`` is 0 (usual) to 4 (1.5 times the usual time or more, by wall or busy time)."""

    wall_ms: float
    slowdown: float | None
    busy_slowdown: float | None
    cause: str
    heat: int


@frozen(kw_only=True)
class Row:
    """One rank: who it is, its cell in each stage that it has; ``link`` leads to its review, where it has one."""

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
    reviews: int = MOST_PAGES


def fleet_model(found: Fleet, folder: str = PAGES) -> FleetModel:
    """Return what the page of a fleet shows; the ranks' reviews lie in the ``folder`` beside it."""
    by_rank: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    named = has_ranks(found.ranks)
    for row in found.ranks.to_pylist():
        by_rank[row["report"], row["pid"]].append(row)
    # Those that are slow first: a rank that is slow by its busy time alone takes no longer than others.
    order = sorted(by_rank.values(), key=lambda cells: (all(c["cause"] == "none" for c in cells), -_wall(cells)))
    rows = [_row(cells, folder if at < MOST_PAGES else "") for at, cells in enumerate(order)]
    return FleetModel(
        reports=len(found.states),
        ranks=len(rows),
        stages=tuple(fleet_stages(found)),
        rows=tuple(rows[:MOST_ROWS]),
        outliers=tuple(_sentences(by_slowdown(found.ranks), named=named)),
        cautions=tuple(found.cautions),
        named=named,
        failed=tuple((state.name, state.error) for state in found.failed),
    )


def _wall(cells: list[dict[str, Any]]) -> int:
    return sum(cell["wall_ns"] for cell in cells)


def _row(cells: list[dict[str, Any]], folder: str) -> Row:
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
        link=f"{folder}/{one['report']}.html" if folder else "",
        wall_ms=_wall(cells) / 1e6,
        cells={cell["stage"]: _cell(cell) for cell in cells},
    )


def _cell(row: Mapping[str, Any]) -> Cell:
    times = max(row["slowdown"] or 1.0, row["busy_slowdown"] or 1.0)
    heat = 0 if row["cause"] == "none" else min(4, 1 + int((times - SLOW) / 0.15))
    return Cell(
        wall_ms=row["wall_ns"] / 1e6, slowdown=row["slowdown"], busy_slowdown=row["busy_slowdown"],
        cause=row["cause"], heat=heat,
    )  # fmt: skip


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
        who = rank_name(row["rank"], row["report"], row["host"], named=named)
        found.append(f"{row['stage']}: {who} {slowness(row)}: {_WORDS[row['cause']]}{clock}")
    if len(slow) > OUTLIERS:
        found.append(f"and {len(slow) - OUTLIERS:,} more")
    return found


def write_fleet_pages(found: Fleet, page: Path | None = None) -> Path:
    """Write the fleet's page and the review of each rank that it leads to; return the former's path.

    Unless another ``page`` is named, they lie in the fleet's own directory: there a review that is newer than its
    report's join stays, and one that nothing leads to any more goes.
    """
    own = page is None
    page = found.out / PAGE if page is None else page
    model, folder = fleet_model(found, PAGES if own else f"{page.stem}-ranks"), Folders(found.out)
    reviews = {row.link: row.report for row in model.rows if row.link}
    for old in (found.out / PAGES).glob("*.html") if own else ():
        if f"{PAGES}/{old.name}" not in reviews:
            old.unlink()
    for link, name in reviews.items():
        review = page.parent / link
        if not (own and review.is_file() and review.stat().st_mtime_ns > folder.state(name).stat().st_mtime_ns):
            write_text(review_page(open_part(Part(found.out, name)), name, up=f"../{page.name}"), review)
    text = environment().get_template("fleet.html.j2").render(model=model, style=asset("review.css"))
    write_text(text, page)
    return page
