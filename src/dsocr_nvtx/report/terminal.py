"""The verdict in a terminal: a table of stages, the rows that lose most, and what was not attributed."""

from collections.abc import Callable, Sequence

from attrs import frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.report import words
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
_STAGES = (
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
_ROWS = (
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


def show(console: Console, found: Roofline, accounting: Accounting, *, losses: int = 10) -> None:
    """Print verdicts, stages, the ``losses`` rows that lose most, and the accounting.

    What is not a terminal has no width to keep to: there every column is printed.
    """
    stages = found.stages.to_pylist()
    who = _whose(stages)
    wall = sum(stage["wall_ns"] for stage in stages)
    rows = [{**row, "lost_share": row["lost_ns"] / wall if wall else None} for row in found.rows.to_pylist()[:losses]]
    for stage in stages:
        text = "".join(f"{column.title} {column.text(stage)}: " for column in who) + words.verdict(stage)
        console.print(Text(text, style=_COLOURS.get(str(stage["bound"]), "")))
    console.print(_table(console, "Stages (times in ms)", (*who, *_STAGES), stages))
    console.print(_table(console, f"The {len(rows)} rows that lose most (times in ms)", (*who, *_ROWS), rows))
    for line in _accounts(found, accounting):
        console.print(Text(line, style="dim"))


def _whose(stages: Sequence[words.Record]) -> tuple[_Column, ...]:
    """Return the column that tells rows of several processes apart: their ranks, where the report has them."""
    processes = {(stage["pid"], stage["rank"]) for stage in stages}
    if len({pid for pid, _ in processes}) < 2:
        return ()
    name = "rank" if len({rank for _, rank in processes}) == len(processes) else "pid"
    return (_Column(title=name, text=lambda row: str(row[name])),)


def _table(console: Console, title: str, columns: Sequence[_Column], rows: Sequence[words.Record]) -> Table:
    shown = [column for column in columns if not column.wide or console.width >= _WIDE]
    table = Table(title=f"\n{title}", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in shown:
        table.add_column(column.title, justify="left" if column.left else "right", no_wrap=True)
    for row in rows:
        colour = _COLOURS.get(str(row["bound"]), "")
        table.add_row(*(Text(c.text(row), style=colour if c is _BOUND else "") for c in shown))
    return table


def _accounts(found: Roofline, accounting: Accounting) -> list[str]:
    lines = [
        "",
        f"roofs: {found.roofs.device}, {found.roofs.source}; level {found.level}",
        f"{accounting.operations:,} GPU operations, {words.milliseconds(accounting.total_ns)} ms; between the first "
        f"and the last hooked call {accounting.covered:.2%} of that time has a range, "
        f"{accounting.covered_by_leaves:.2%} a leaf range",
    ]
    for bucket, count in accounting.buckets.items():
        if bucket != "attributed" and count.operations:
            text = f"not attributed, {bucket.replace('_', ' ')}: {count.operations:,} operations"
            lines.append(f"{text}, {words.milliseconds(count.ns)} ms")
    if accounting.graphs.note:
        lines.append(accounting.graphs.note)
    above = sum(row is True for row in found.rows["above_roof"].to_pylist())
    if above:
        lines.append(
            f"{above} rows took less time than the roofs at the highest clock allow: a cost, roof or time is wrong"
        )
    if accounting.cost_sources.get("none"):
        lines.append(f"{accounting.cost_sources['none']:,} ranges have no cost in this report: their work is missing")
    for device in accounting.devices:
        unowned = device.idle_ns.get("none", 0)
        lines.append(
            f"GPU {device.device}: {words.milliseconds(device.wall_ns)} ms from the first operation or hooked call to "
            f"the last, of which {words.milliseconds(unowned)} ms idle outside every range"
        )
    return [*lines, *words.stalls(accounting.stalls), *words.other_share(accounting.classes)]
