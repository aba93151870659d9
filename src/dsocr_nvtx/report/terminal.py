"""The verdict in a terminal: a table of stages, the rows that lose most, and what was not attributed."""

import os
from collections.abc import Callable, Sequence

from attrs import frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.report import words
from dsocr_nvtx.report.caveats import caveats, contradictions, costless, unattributed
from dsocr_nvtx.report.sections import budget_lines
from dsocr_nvtx.roofline.points import Roofline

_COLOURS = {"host": "yellow", "compute": "green", "memory": "cyan", "latency": "magenta"}
_WIDE = 116
"""Characters that all columns need; a narrower terminal gets those that carry the verdict."""


@frozen(kw_only=True)
class _Column:
    """A column of a terminal table: its title, the text of a row, and whether a narrow terminal can do without it."""

    title: str
    text: Callable[[words.Record], str]
    wide: bool = False
    left: bool = False


def _ns(title: str, name: str, *, wide: bool = False) -> _Column:
    return _Column(title=title, text=lambda row: words.milliseconds(row[name]), wide=wide)


def _percent(title: str, name: str, *, wide: bool = False) -> _Column:
    return _Column(title=title, text=lambda row: words.percent(row[name]), wide=wide)


def _decimal(title: str, name: str, digits: int) -> _Column:
    return _Column(title=title, text=lambda row: words.decimal(row[name], digits), wide=True)


def _count(title: str, name: str, *, wide: bool = False) -> _Column:
    return _Column(title=title, text=lambda row: words.decimal(row[name], 0), wide=wide)


_STAGE = _Column(title="stage", text=lambda row: str(row["stage"]), left=True)
_BOUND = _Column(title="bound", text=lambda row: str(row["bound"] or "-"), left=True)
STAGE_COLUMNS = (
    _STAGE,
    _BOUND,
    _count("steps", "steps"),
    _count("tokens", "tokens", wide=True),
    _ns("wall", "wall_ns"),
    _ns("busy", "busy_owned_ns"),
    _ns("idle", "idle_owned_ns"),
    _ns("roofline", "roofline_ns"),
    _percent("of roof", "efficiency"),
    _decimal("TFLOP/s", "achieved_tflops", 1),
    _decimal("GB/s", "achieved_gbps", 0),
    _percent("MFU", "mfu", wide=True),
    _percent("MBU", "mbu", wide=True),
)
LOSS_COLUMNS = (
    _STAGE,
    _Column(title="where", text=words.place, left=True),
    _BOUND,
    _count("calls", "calls", wide=True),
    _ns("wall", "wall_ns"),
    _ns("busy", "busy_owned_ns", wide=True),
    _ns("idle", "idle_owned_ns", wide=True),
    _ns("roofline", "roofline_ns", wide=True),
    _ns("lost", "lost_ns"),
    _percent("of wall", "lost_share"),
    _percent("of roof", "efficiency"),
)


def wide_console() -> Console:
    """Return the terminal; what is no terminal, a file or a pipe, gets lines as long as they need to be."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=160)


def show(console: Console, found: Roofline, accounting: Accounting, *, losses: int = 10) -> None:
    """Print verdicts, stages, the ``losses`` rows that lose most, and the accounting.

    What is not a terminal has no width to keep to: there every column is printed.
    """
    stages = found.stages.to_pylist()
    rows = loss_rows(found, losses)
    for stage in stages:
        console.print(Text(words.verdict(stage), style=_COLOURS.get(str(stage["bound"]), "")))
    console.print(_table(console, "Stages (times in ms)", STAGE_COLUMNS, stages))
    console.print(_budget(stages, found.rows.to_pylist(), accounting))
    console.print(_table(console, f"The {len(rows)} rows that lose most (times in ms)", LOSS_COLUMNS, rows))
    for line in _accounts(found, accounting):
        console.print(Text(line, style="dim"))


def _table(console: Console, title: str, columns: Sequence[_Column], rows: Sequence[words.Record]) -> Table:
    shown = [column for column in columns if not column.wide or console.width >= _WIDE]
    table = Table(title=f"\n{title}", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in shown:
        table.add_column(column.title, justify="left" if column.left else "right", no_wrap=True)
    for row in rows:
        colour = _COLOURS.get(str(row["bound"]), "")
        table.add_row(*(Text(c.text(row), style=colour if c is _BOUND else "") for c in shown))
    return table


def loss_rows(found: Roofline, most: int) -> list[dict[str, object]]:
    """Return the rows that lose most, each with its share of all stages' wall time."""
    wall = sum(found.stages["wall_ns"].to_pylist())
    return [{**row, "lost_share": row["lost_ns"] / wall if wall else None} for row in found.rows.to_pylist()[:most]]


def as_plain(found: Roofline, accounting: Accounting, *, losses: int) -> dict[str, object]:
    """Return what `show` prints as plain data: whole nanoseconds, and every caveat."""
    stages, rows = found.stages.to_pylist(), found.rows.to_pylist()
    columns = [*(str(stage["stage"]) for stage in stages), "outside", "total"]
    return {
        "level": found.level,
        "roofs": {"device": found.roofs.device, "source": found.roofs.source},
        "verdicts": [words.verdict(stage) for stage in stages],
        "stages": stages,
        "budget": {
            line.key: dict(zip(columns, line.values, strict=True)) for line in budget_lines(stages, rows, accounting)
        },
        "losses": rows[:losses],
        "caveats": [{"text": one.text, "is_grave": one.is_grave} for one in caveats(found, accounting)],
    }


def _budget(stages: Sequence[words.Record], rows: Sequence[words.Record], accounting: Accounting) -> Table:
    """Return the time budget: a line per part, a column per stage; parts that take no time anywhere are left out."""
    table = Table(title="\nTime budget (ms)", title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("part", no_wrap=True)
    for title in (*(str(stage["stage"]) for stage in stages), "outside", "total"):
        table.add_column(title, justify="right", no_wrap=True)
    for line in budget_lines(stages, rows, accounting):
        if any(line.values) or line.key == "wall":
            style = "bold" if line.key == "wall" else ""
            table.add_row(line.name, *(words.milliseconds(ns) if ns else "-" for ns in line.values), style=style)
    return table


def _accounts(found: Roofline, accounting: Accounting) -> list[str]:
    lines = [
        "",
        f"roofs: {found.roofs.device}, {found.roofs.source}; level {found.level}",
        f"{accounting.operations:,} GPU operations, {words.milliseconds(accounting.total_ns)} ms; between the first "
        f"and the last hooked call {accounting.covered:.2%} of that time has a range, "
        f"{accounting.covered_by_leaves:.2%} a leaf range",
    ]
    lines += unattributed(accounting)
    if accounting.graphs.note:
        lines.append(accounting.graphs.note)
    lines += [*contradictions(found), *costless(accounting)]
    for device in accounting.devices:
        unowned = device.idle_ns.get("none", 0)
        lines.append(
            f"GPU {device.device}: {words.milliseconds(device.wall_ns)} ms from the first operation or hooked call to "
            f"the last, of which {words.milliseconds(unowned)} ms idle outside every range"
        )
    return [*lines, *words.stalls(accounting.stalls), *words.other_share(accounting.classes)]
