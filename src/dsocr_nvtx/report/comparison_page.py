"""A comparison as one static HTML page: no script, nothing fetched, every name escaped."""

from collections.abc import Sequence

from dsocr_nvtx.compare.comparison import Comparison
from dsocr_nvtx.compare.lines import Line, place
from dsocr_nvtx.report import causes, changes
from dsocr_nvtx.report.page import asset, environment


def comparison_page(found: Comparison, *, limit: int = 10, sort: causes.Sort = causes.Sort.COST) -> str:
    """Return the page: what changed and why, what to be wary of, then every layer and row, the heaviest first.

    ``limit`` causes of each stage are open to be read, the others folded.
    """
    made = environment()
    made.globals |= {"changes": changes, "causes": causes, "place": place, "heaviest": _heaviest}
    about = [
        (name, f"{out.where}, {out.about.get('device') or 'unknown device'}")
        for name, out in (("A", found.a), ("B", found.b))
    ]
    return made.get_template("comparison.html.j2").render(
        found=found, told=causes.ranked(found, sort=sort), limit=limit,
        stages=sorted(found.stages, key=lambda stage: -abs(stage.total.contribution)),
        about=[*about, ("level", found.a.level)],
        notes=[*found.warnings, *(note for stage in found.stages for note in stage.notes)],
        style=asset("review.css"),
    )  # fmt: skip


def _heaviest(rows: Sequence[Line]) -> list[Line]:
    return sorted(rows, key=lambda row: -abs(row.contribution))
