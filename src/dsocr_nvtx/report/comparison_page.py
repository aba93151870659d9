"""A comparison as one static HTML page: no script, nothing fetched, every name escaped."""

from collections.abc import Sequence

from dsocr_nvtx.compare.comparison import Comparison
from dsocr_nvtx.compare.lines import Line, place
from dsocr_nvtx.report import changes
from dsocr_nvtx.report.page import asset, environment


def comparison_page(found: Comparison) -> str:
    """Return the page: what changed and why, what to be wary of, then every layer and row, the heaviest first."""
    made = environment()
    made.globals |= {"changes": changes, "place": place, "heaviest": _heaviest}
    about = [
        (name, f"{out.where}, {out.about.get('device') or 'unknown device'}")
        for name, out in (("A", found.a), ("B", found.b))
    ]
    return made.get_template("comparison.html.j2").render(
        found=found,
        stages=sorted(found.stages, key=lambda stage: -abs(stage.total.contribution)),
        about=[*about, ("level", found.a.level)],
        notes=[*found.warnings, *(note for stage in found.stages for note in stage.notes)],
        style=asset("review.css"),
    )


def _heaviest(rows: Sequence[Line]) -> list[Line]:
    return sorted(rows, key=lambda row: -abs(row.contribution))
