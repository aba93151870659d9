"""The verdict in a terminal: a table of stages, the rows that lose most, and what was not attributed."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsocr_nvtx.errors import printable
from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.report import served, words
from dsocr_nvtx.report.advice import advice
from dsocr_nvtx.report.caveats import caveats
from dsocr_nvtx.report.columns import Column, count, decimal, nanoseconds, percentage, table
from dsocr_nvtx.report.kernels import kernels_table
from dsocr_nvtx.report.sections import budget_lines, stage_labels
from dsocr_nvtx.roofline.points import Roofline
from dsocr_nvtx.roofline.review import ServedReview

_COLOURS = {
    "host": "yellow",
    "queued": "bright_yellow",
    "compute": "green",
    "memory": "cyan",
    "l2": "bright_cyan",
    "unfused": "magenta",
    "small": "bright_magenta",
    "inefficient": "blue",
}


_STAGE = Column(title="stage", text=lambda row: str(row["stage"]), left=True)
_BOUND = Column(
    title="bound",
    text=lambda row: str(row["bound"] or "-"),
    style=lambda row: _COLOURS.get(str(row["bound"]), ""),
    left=True,
)
STAGE_COLUMNS = (
    _STAGE,
    _BOUND,
    count("steps", "steps", spare=True),
    count("tokens", "tokens", wide=True),
    nanoseconds("wall", "wall_ns"),
    nanoseconds("busy", "busy_owned_ns"),
    nanoseconds("idle", "idle_owned_ns"),
    nanoseconds("roofline", "roofline_ns", spare=True),
    percentage("roof/busy", "efficiency"),
    decimal("TFLOP/s busy", "achieved_tflops", 1),
    decimal("GB/s busy", "achieved_gbps", 0),
    percentage("MFU wall", "mfu", wide=True),
    percentage("MBU wall", "mbu", wide=True),
)
LOSS_COLUMNS = (
    _STAGE,
    Column(title="where", text=words.place, left=True, folds=True),
    _BOUND,
    count("calls", "calls", wide=True),
    nanoseconds("wall", "wall_ns", spare=True),
    nanoseconds("busy", "busy_owned_ns", wide=True),
    nanoseconds("idle", "idle_owned_ns", wide=True),
    nanoseconds("roofline", "roofline_ns", wide=True),
    nanoseconds("lost", "lost_ns"),
    percentage("of wall", "lost_share"),
    percentage("roof/busy", "efficiency", spare=True),
)


def show(
    console: Console, found: Roofline, accounting: Accounting, kernels: Sequence[words.Record] = (), *,
    losses: int = 10, most_kernels: int = 10, rungs: Sequence[words.Record] = (), review: ServedReview | None = None,
) -> None:  # fmt: skip
    """Print verdicts with advice, stages, the ``losses`` rows that lose most, the longest ``kernels``, the accounting.

    ``kernels`` are rows of KERNELS_SUMMARY, ``rungs`` of LADDER; ``review`` is that of a served run. What is not a
    terminal has no width to keep to: there every column is printed.
    """
    stages = found.stages.to_pylist()
    rows = loss_rows(found, losses)
    who = _whose(stages)
    for line in served.served_lines(review) if review is not None else ():
        console.print(Text(printable(line), style="bold"))
    for stage in stages:
        text = "".join(f"{column.title} {column.text(stage)}: " for column in who) + words.verdict(stage)
        console.print(Text(text, style=_COLOURS.get(str(stage["bound"]), "")))
        for line in advice(stage, rungs, accounting.stalls):
            console.print(Text(f"  {printable(line)}"))
    console.print(table(console, "Stages (times in ms)", (*who, *STAGE_COLUMNS), stages))
    if review is not None and review.pages is not None:
        title = "The time of a page, from its arrival down (mean, in ms)"
        console.print(table(console, title, served.PAGE_COLUMNS, served.page_rows(review.pages)))
    if review is not None and review.batches:
        title = "Served steps (sequences, rows and ms a step: means)"
        console.print(table(console, title, served.BATCH_COLUMNS, served.batch_rows(review.batches)))
    console.print(_budget(console, stages, found.rows.to_pylist(), accounting))
    console.print(table(console, f"The {len(rows)} rows that lose most (times in ms)", (*who, *LOSS_COLUMNS), rows))
    if kernels and most_kernels:
        console.print(kernels_table(console, kernels, most_kernels))
    for line in _accounts(found, accounting):
        console.print(Text(printable(line), style="dim"))


def _whose(stages: Sequence[words.Record]) -> tuple[Column, ...]:
    """Return the column that tells rows of several processes apart: their ranks, where the report has them."""
    processes = {(stage["pid"], stage["rank"]) for stage in stages}
    if len({pid for pid, _ in processes}) < 2:
        return ()
    name = "rank" if len({rank for _, rank in processes}) == len(processes) else "pid"
    return (Column(title=name, text=lambda row: str(row[name])),)


def loss_rows(found: Roofline, most: int) -> list[dict[str, object]]:
    """Return the rows that lose most, each with its share of all stages' wall time."""
    wall = sum(found.stages["wall_ns"].to_pylist())
    return [{**row, "lost_share": row["lost_ns"] / wall if wall else None} for row in found.rows.to_pylist()[:most]]


def as_plain(
    found: Roofline, accounting: Accounting, kernels: Sequence[words.Record] = (), *, losses: int,
    rungs: Sequence[words.Record] = (), review: ServedReview | None = None,
) -> dict[str, object]:  # fmt: skip
    """Return what `show` prints as plain data: whole nanoseconds, and every caveat; ``served`` of a served run."""
    stages, rows = found.stages.to_pylist(), found.rows.to_pylist()
    columns = [*stage_labels(stages), "outside", "total"]
    return {
        "level": found.level,
        "roofs": {"device": found.roofs.device, "source": found.roofs.source},
        "verdicts": [words.verdict(stage) for stage in stages],
        "advice": [list(advice(stage, rungs, accounting.stalls)) for stage in stages],
        "stages": stages,
        "budget": {
            line.key: dict(zip(columns, line.values, strict=True)) for line in budget_lines(stages, rows, accounting)
        },
        **({"served": served.as_plain(review)} if review is not None else {}),
        "losses": rows[:losses],
        "kernels": list(kernels),
        "caveats": [{"text": one.text, "is_grave": one.is_grave} for one in caveats(found, accounting)],
    }


def _budget(
    console: Console, stages: Sequence[words.Record], rows: Sequence[words.Record], accounting: Accounting
) -> Table:
    """Return the time budget: a line per part, a column per stage; parts that take no time anywhere are left out."""
    titles = (*stage_labels(stages), "outside", "total")
    lines = [line for line in budget_lines(stages, rows, accounting) if any(line.values) or line.key == "wall"]
    told: list[words.Record] = [
        {"part": line.name, **{str(at): ns for at, ns in enumerate(line.values)}} for line in lines
    ]
    columns = [
        Column(title="part", text=lambda row: str(row["part"]), style=_sum_style, left=True, folds=True),
        *(_budget_column(title, str(at), spare=title == "outside") for at, title in enumerate(titles)),
    ]
    return table(console, "Time budget (ms)", columns, told)


def _budget_column(title: str, name: str, *, spare: bool) -> Column:
    return Column(
        title=title, text=lambda row: words.milliseconds(row[name]) if row[name] else "-", style=_sum_style,
        spare=spare,
    )  # fmt: skip


def _sum_style(row: words.Record) -> str:
    return "bold" if row["part"] == "wall time" else ""


def _accounts(found: Roofline, accounting: Accounting) -> list[str]:
    lines = [
        "",
        f"roofs: {found.roofs.device}, {found.roofs.source}; level {found.level}",
        f"{accounting.operations:,} GPU operations, {words.milliseconds(accounting.total_ns)} ms; between the first "
        f"and the last hooked call {accounting.covered:.2%} of that time has a range, "
        f"{accounting.covered_by_leaves:.2%} a leaf range",
    ]
    lines += [one.text for one in caveats(found, accounting)]
    for device in accounting.devices:
        unowned = device.idle_ns.get("none", 0)
        lines.append(
            f"GPU {device.device}: {words.milliseconds(device.wall_ns)} ms from the first operation or hooked call to "
            f"the last, of which {words.milliseconds(unowned)} ms idle outside every range"
        )
    return [*lines, *words.stalls(accounting.stalls)]
