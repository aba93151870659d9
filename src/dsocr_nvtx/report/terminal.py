"""The verdict in a terminal: a table of stages, the rows that lose most, and what was not attributed."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.report import words
from dsocr_nvtx.roofline.points import Roofline

_COLOURS = {"host": "yellow", "compute": "green", "memory": "cyan", "latency": "magenta"}


def show(console: Console, found: Roofline, accounting: Accounting, *, losses: int = 10) -> None:
    """Print verdicts, stages, the ``losses`` rows that lose most, and the accounting."""
    stages = found.stages.to_pylist()
    for stage in stages:
        console.print(Text(words.verdict(stage), style=_COLOURS.get(str(stage["bound"]), "")))
    console.print(_stages(stages))
    console.print(_losses(found.rows.to_pylist()[:losses], sum(stage["wall_ns"] for stage in stages)))
    for line in _accounts(found, accounting):
        console.print(Text(line, style="dim"))


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _stages(stages: Sequence[words.Record]) -> Table:
    table = _table(
        "\nStages (times in ms)",
        ["stage", "bound by"],
        ["steps", "tokens", "wall", "busy", "idle", "roofline", "of roof", "TFLOP/s", "GB/s", "MFU", "MBU"],
    )
    for stage in stages:
        table.add_row(
            str(stage["stage"]),
            Text(words.bound(stage["bound"]), style=_COLOURS.get(str(stage["bound"]), "")),
            f"{stage['steps']:,}",
            f"{stage['tokens']:,}",
            *(words.milliseconds(stage[n]) for n in ("wall_ns", "busy_owned_ns", "idle_owned_ns", "roofline_ns")),
            words.percent(stage["efficiency"]),
            words.decimal(stage["achieved_tflops"]),
            words.decimal(stage["achieved_gbps"], 0),
            words.percent(stage["mfu"]),
            words.percent(stage["mbu"]),
        )
    return table


def _losses(rows: Sequence[words.Record], wall: int) -> Table:
    table = _table(
        f"\nThe {len(rows)} rows that lose most (times in ms)",
        ["stage", "where", "bound by"],
        ["calls", "wall", "busy", "idle", "roofline", "lost", "of wall", "of roof"],
    )
    for row in rows:
        lost = row["lost_ns"]
        assert isinstance(lost, int)  # noqa: S101 - the schema's type
        table.add_row(
            str(row["stage"]),
            words.place(row),
            Text(words.bound(row["bound"]), style=_COLOURS.get(str(row["bound"]), "")),
            f"{row['calls']:,}",
            *(words.milliseconds(row[n]) for n in ("wall_ns", "busy_owned_ns", "idle_owned_ns", "roofline_ns")),
            words.milliseconds(lost),
            words.percent(lost / wall if wall else None),
            words.percent(row["efficiency"]),
        )
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
    if accounting.cost_sources.get("none"):
        lines.append(f"{accounting.cost_sources['none']:,} ranges have no cost in this report: their work is missing")
    for device in accounting.devices:
        unowned = device.idle_ns.get("none", 0)
        lines.append(
            f"GPU {device.device}: {words.milliseconds(device.wall_ns)} ms from the first operation or hooked call to "
            f"the last, of which {words.milliseconds(unowned)} ms idle outside every range"
        )
    return lines
