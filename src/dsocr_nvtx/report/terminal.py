"""The verdict in a terminal: a table of stages, the rows that lose most, and what was not attributed."""

from rich.console import Console
from rich.text import Text

from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.report import words
from dsocr_nvtx.report.columns import Column, count, decimal, nanoseconds, percentage, table
from dsocr_nvtx.roofline.points import Roofline

_COLOURS = {"host": "yellow", "compute": "green", "memory": "cyan", "latency": "magenta"}

_STAGE = Column(title="stage", text=lambda row: str(row["stage"]), left=True)
_BOUND = Column(
    title="bound",
    text=lambda row: str(row["bound"] or "-"),
    style=lambda row: _COLOURS.get(str(row["bound"]), ""),
    left=True,
)
_STAGES = (
    _STAGE,
    _BOUND,
    count("steps", "steps"),
    count("tokens", "tokens", wide=True),
    nanoseconds("wall", "wall_ns"),
    nanoseconds("busy", "busy_owned_ns"),
    nanoseconds("idle", "idle_owned_ns"),
    nanoseconds("roofline", "roofline_ns"),
    percentage("of roof", "efficiency"),
    decimal("TFLOP/s", "achieved_tflops", 1),
    decimal("GB/s", "achieved_gbps", 0),
    percentage("MFU", "mfu", wide=True),
    percentage("MBU", "mbu", wide=True),
)
_ROWS = (
    _STAGE,
    Column(title="where", text=words.place, left=True),
    _BOUND,
    count("calls", "calls", wide=True),
    nanoseconds("wall", "wall_ns"),
    nanoseconds("busy", "busy_owned_ns", wide=True),
    nanoseconds("idle", "idle_owned_ns", wide=True),
    nanoseconds("roofline", "roofline_ns", wide=True),
    nanoseconds("lost", "lost_ns"),
    percentage("of wall", "lost_share"),
    percentage("of roof", "efficiency"),
)


def show(console: Console, found: Roofline, accounting: Accounting, *, losses: int = 10) -> None:
    """Print verdicts, stages, the ``losses`` rows that lose most, and the accounting.

    What is not a terminal has no width to keep to: there every column is printed.
    """
    stages = found.stages.to_pylist()
    wall = sum(stage["wall_ns"] for stage in stages)
    rows = [{**row, "lost_share": row["lost_ns"] / wall if wall else None} for row in found.rows.to_pylist()[:losses]]
    for stage in stages:
        console.print(Text(words.verdict(stage), style=_COLOURS.get(str(stage["bound"]), "")))
    console.print(table(console, "Stages (times in ms)", _STAGES, stages))
    console.print(table(console, f"The {len(rows)} rows that lose most (times in ms)", _ROWS, rows))
    for line in _accounts(found, accounting):
        console.print(Text(line, style="dim"))


def _accounts(found: Roofline, accounting: Accounting) -> list[str]:
    lines = [
        "",
        f"roofs: {found.roofs.device}, {found.roofs.source}; level {found.level}",
        f"{accounting.operations:,} GPU operations, {words.milliseconds(accounting.total_ns)} ms; between the first "
        f"and the last hooked call {accounting.covered:.2%} of that time has a range, "
        f"{accounting.covered_by_leaves:.2%} a leaf range",
    ]
    for bucket, counted in accounting.buckets.items():
        if bucket != "attributed" and counted.operations:
            text = f"not attributed, {bucket.replace('_', ' ')}: {counted.operations:,} operations"
            lines.append(f"{text}, {words.milliseconds(counted.ns)} ms")
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
