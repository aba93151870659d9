"""The review page: one HTML file that holds everything, asks nothing of the network, and runs only its own script.

Text from reports is escaped everywhere: Jinja does it in markup, `data` as JSON without a character that HTML reads.
"""

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources

import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dsocr_nvtx import __version__
from dsocr_nvtx.join.naming import short_name
from dsocr_nvtx.report import drawings, glossary, sections, served, timeline, words
from dsocr_nvtx.report.advice import RUNG_WORDS
from dsocr_nvtx.report.axes import scaled
from dsocr_nvtx.report.caveats import caveats
from dsocr_nvtx.report.chart import HEIGHT, WIDTH, chart
from dsocr_nvtx.report.kernels import microseconds, where
from dsocr_nvtx.report.opened import Opened
from dsocr_nvtx.roofline.bounds import BOUNDS
from dsocr_nvtx.roofline.evidence import KernelShare, kernel_shares, stage_steps
from dsocr_nvtx.roofline.ladder import ladder
from dsocr_nvtx.roofline.tax import TAX_RULE

MOST_ROWS = 1200
"""Rows that a page lists, those that lose most; the others are added up in one line, which says how many they are."""
MOST_FIGURES = 8
"""Stages whose steps are drawn, those with most steps."""
MOST_KERNELS = 400
"""Kernels by stage and name that are listed, those that take longest; how many more there are is said."""
LONGEST_NAME = 200
"""Characters of a name that are shown; longer ones are cut, and say how long they were."""

_COLUMNS = (
    "calls", "launches", "wall_ns", "busy_owned_ns", "tax_ns", "idle_owned_ns", "roofline_ns", "lost_ns", "efficiency",
    "achieved_tflops", "achieved_gbps", "intensity", "idle_host_ns", "idle_launch_ns", "idle_sync_ns", "idle_memory_ns",
    "idle_queued_ns", "small_ns",
)  # fmt: skip


@frozen
class _Listed:
    """The rows that are listed, and the sum of those that are not."""

    rows: list[dict[str, object]]
    others: int
    others_wall_ns: int
    others_lost_ns: int


def review_page(opened: Opened, title: str = "", up: str = "") -> str:
    """Return the review of a join as HTML; of a rank, with a link ``up`` to the page of all."""
    found = opened.roofline
    every, stages = found.rows.to_pylist(), found.stages.to_pylist()
    listed, shown = _listed(every), sections.several(every)
    kernels, ranges = opened.kernels, opened.ranges
    summary = opened.kernels_summary
    observed, energy = opened.beside("experts"), opened.beside("energy")
    climbed = ladder(kernels, found.stages).to_pylist()
    shares = kernel_shares(found.rows.slice(0, len(listed.rows)), kernels, ranges, str(opened.part.file("kernels")))
    drawn = chart(listed.rows, found.roofs, _main_dtype(opened))
    return environment().get_template("review.html.j2").render(
        title=title or _title(opened), up=up,
        about=_about(opened),
        cards=sections.cards(stages, every, climbed, opened.accounting.stalls),
        caveats=caveats(found, opened.accounting),
        stages=sections.stage_labels(stages),
        budget=sections.budget_lines(stages, every, opened.accounting),
        meanings=sections.PART_WORDS,
        served=served.section(review) if (review := opened.served_review) is not None else None,
        timelines=_timelines(opened, stages, kernels, ranges),
        columns=timeline.COLUMNS, narrowest=timeline.NARROWEST, gpu_parts=timeline.GPU_PARTS,
        stalls=sections.stall_lines(opened.accounting),
        kernels=summary[:MOST_KERNELS], more_kernels=len(summary[MOST_KERNELS:]),
        where=where, microseconds=microseconds,
        chart=drawn, width=WIDTH, height=HEIGHT,
        rungs=drawings.rungs(climbed),
        assumed=dict.fromkeys((RUNG_WORDS[rung["rung"]], rung["assumes"]) for rung in climbed),
        tax_rule=TAX_RULE,
        heats=drawings.heat_maps(listed.rows),
        steps=_step_figures(stages, ranges),
        traffic=sections.traffic(stages),
        experts=drawings.experts(observed.to_pylist()) if observed is not None else [],
        energy=sections.energy_lines(energy.to_pylist()) if energy is not None else [],
        energy_columns=sections.ENERGY_COLUMNS,
        rows=listed.rows, others=listed, words=words, glossary=glossary, bounds=_bounds(listed.rows),
        place=lambda row: _place(row, shown=shown),
        data=_data(listed.rows, shares, shown=shown),
        version=__version__,
        style=asset("review.css"), script=asset("review.js"),
    )  # fmt: skip


def roofline_picture(opened: Opened, title: str = "") -> str:
    """Return the roofline chart of a join alone, as an SVG file for slides and documents; always light."""
    rows = _listed(opened.roofline.rows.to_pylist()).rows
    shown = sections.several(rows)
    text = environment().get_template("picture.svg.j2").render(
        chart=chart(rows, opened.roofline.roofs, _main_dtype(opened)), rows=rows, words=words, bounds=_bounds(rows),
        width=WIDTH, height=HEIGHT, place=lambda row: _place(row, shown=shown), title=title or _title(opened),
    )  # fmt: skip
    return re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)  # what XML can hold


def _title(opened: Opened) -> str:
    return f"Roofline review: {shorten(opened.source.get('report', opened.part.name or opened.part.folder.name))}"


def _listed(every: Sequence[Mapping[str, object]]) -> _Listed:
    """Return the rows to list: `ROOFLINE` tables come with those that lose most first."""
    rows, rest = [dict(row) for row in every[:MOST_ROWS]], every[MOST_ROWS:]
    return _Listed(rows, len(rest), *(sum(int(str(row[name])) for row in rest) for name in ("wall_ns", "lost_ns")))


def _bounds(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return what binds any of the rows, in the order of `BOUNDS`."""
    present = {row["bound"] for row in rows}
    return [bound for bound in BOUNDS if bound in present]


def _timelines(
    opened: Opened, stages: Sequence[Mapping[str, object]], kernels: pa.Table, ranges: pa.Table
) -> list[timeline.Timeline]:
    """Return steps as strips, none of a join that has no CUDA calls."""
    calls = opened.beside("api_calls")
    if calls is None:
        return []
    return timeline.timelines(stages, kernels, ranges, calls, sections.stage_labels(stages))


def _step_figures(stages: Sequence[Mapping[str, object]], ranges: pa.Table) -> list[drawings.StepBars]:
    """Return the steps of the stages that have most, each process and GPU for itself."""
    shown = sections.several(stages)
    figures = [
        drawings.step_bars(stage_steps(ranges, stage), sections.who(stage, shown=shown))
        for stage in sorted(stages, key=lambda stage: -int(str(stage["steps"])))[:MOST_FIGURES]
    ]
    return [figure for figure in figures if figure is not None]


def _main_dtype(opened: Opened) -> str:
    """Return the element type of most matrix work, whose roof is drawn."""
    ranges = opened.ranges.select(["dtype", "tensor_flops"])
    if not len(ranges):
        return "bfloat16"
    totals = ranges.group_by("dtype").aggregate([("tensor_flops", "sum")])
    return str(
        totals["dtype"][pc.index(totals["tensor_flops_sum"], pc.max(totals["tensor_flops_sum"])).as_py()].as_py()
    )


def _about(opened: Opened) -> list[tuple[str, str]]:
    source = opened.source
    told = {
        "GPU": source.get("device", ""),
        "recorded by": source.get("tool", ""),
        "report": source.get("report", ""),
        "sha256": source.get("sha256", "")[:12],
        "roofs": opened.roofline.roofs.source,
        "ranges": f"{opened.accounting.ranges:,} at level {opened.roofline.level}",
        "GPU operations": f"{opened.accounting.operations:,}",
        "written by": f"dsocr-nvtx {__version__}",
    }
    return [(name, shorten(value)) for name, value in told.items() if value]


def shorten(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a text that people can read in a line: a long one is cut, and says how long it was."""
    return text if len(text) <= longest else f"{text[: longest - 20]}… ({len(text):,} characters)"


def _place(row: Mapping[str, object], *, shown: bool) -> str:
    of = sections.who(row, shown=shown)
    return shorten(words.place(row)) + (f" ({of})" if of else "")


def _data(rows: Sequence[Mapping[str, object]], shares: Sequence[KernelShare], *, shown: bool) -> Markup:
    """Return what the page's script reads: rows, their kernels, and the kernels' names once each."""
    names: dict[tuple[str, str, str], int] = {}
    kernels: list[list[list[int]]] = [[] for _ in rows]
    for share in shares:
        name = names.setdefault((shorten(short_name(share.name)), share.kind, shorten(share.name)), len(names))
        kernels[share.row].append([name, share.operations, share.ns])
    told = {
        "columns": _COLUMNS,
        "rows": [
            [
                str(row["stage"]),
                _place(row, shown=shown),
                str(row["kind"]),
                str(row["bound"] or ""),
                *(_short(row[c]) for c in _COLUMNS),
            ]
            for row in rows
        ],
        "names": [list(name) for name in names],
        "kernels": kernels,
    }
    text = json.dumps(told, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - JSON in which no character of HTML is left


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def asset(name: str) -> Markup:
    """Return a file of the package's own, style or script, to stand in a page as it is."""
    return Markup((resources.files("dsocr_nvtx.report") / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704


def environment() -> Environment:
    """Return the templates, whose every text is escaped."""
    made = Environment(
        loader=PackageLoader("dsocr_nvtx.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"shorten": shorten, "scaled": scaled, "first_word": lambda text: text.split(" ")[0]}
    return made
