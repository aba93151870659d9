"""A fleet in a terminal: what binds its stages, how its ranks lie apart, which are slow and why, what loses most."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from dsocr_nvtx.errors import printable_line
from dsocr_nvtx.fleet.engine import FAILED, Fleet
from dsocr_nvtx.fleet.notes import by_slowdown, has_ranks, rank_name, slowness, usual_times
from dsocr_nvtx.report import words
from dsocr_nvtx.report.columns import Column, count, nanoseconds, percentage, table

MOST = 10
"""Slow ranks, and reports that failed, that are told."""


def _word(title: str, name: str) -> Column:
    return Column(title=title, text=lambda row: str(row[name] or "-"), left=True)


_STAGES = (
    _word("stage", "stage"), _word("bound", "bound"), count("ranks", "ranks"), nanoseconds("wall ms", "wall_ns"),
    nanoseconds("busy ms", "busy_owned_ns"), nanoseconds("idle ms", "idle_owned_ns"),
    percentage("roof/busy", "efficiency"),
    Column(title="slowest", text=lambda row: str(row["slowest"]), left=True, folds=True),
    nanoseconds("its ms", "slowest_wall_ns"), nanoseconds("usual ms", "usual_wall_ns", spare=True),
    Column(title="imbalance", text=lambda row: words.decimal(row["imbalance"], 3), spare=True),
)  # fmt: skip
_LOSSES = (
    _word("stage", "stage"), Column(title="where", text=words.place, left=True, folds=True), _word("bound", "bound"),
    nanoseconds("wall ms", "wall_ns", spare=True), nanoseconds("lost ms", "lost_ns"),
    percentage("roof/busy", "efficiency"),
    Column(title="slowest", text=lambda row: str(row["slowest"]), left=True, folds=True),
    Column(title="imbalance", text=lambda row: words.decimal(row["imbalance"], 3), spare=True),
)  # fmt: skip


def show_fleet(console: Console, found: Fleet, *, losses: int = 0) -> None:
    """Print verdicts, stages, what to read with care, slow ranks, the ``losses`` rows that lose most, what failed."""
    stages = fleet_stages(found)
    for stage in stages:
        _say(console, words.verdict(stage))
    console.print(table(console, "Stages, all ranks together", _STAGES, stages))
    _say(
        console, "usual: the ranks' median busy time and median idle time; imbalance: slowest / mean of the ranks",
        style="dim",
    )  # fmt: skip
    for line in found.cautions:
        _say(console, f"note: {line}", style="yellow")
    for line in slow_ranks(found):
        _say(console, line)
    if losses:
        rows = _with_slowest(found, found.roofline.slice(0, losses).to_pylist())
        console.print(table(console, f"The {len(rows)} rows that lose most, over all ranks", _LOSSES, rows))
    for state in found.failed[:MOST]:
        _say(console, f"failed: {state.name}: {state.error}")
    if found.failed:
        _say(console, f"{len(found.failed)} failed: {found.out / FAILED} lists them")


def fleet_stages(found: Fleet) -> list[dict[str, Any]]:
    """Return the merged stages, with who is slowest in words, and the usual time."""
    usual = usual_times(found.ranks)
    return [
        {**row, "usual_wall_ns": usual[str(row["stage"])]} for row in _with_slowest(found, found.stages.to_pylist())
    ]


def slow_ranks(found: Fleet) -> Iterator[str]:
    """Yield a line for each slow rank and stage, that first which loses most."""
    named = has_ranks(found.ranks)
    slow = by_slowdown(found.ranks)
    for row in slow[:MOST]:
        parts = ", ".join(f"{name} {row[f'{name}_ns'] / 1e6:+,.2f} ms" for name in ("work", "device", "waiting"))
        who = rank_name(row["rank"], row["report"], named=named)
        yield f"{row['stage']}: {who} {slowness(row)}: {row['cause']} ({parts})"
    if len(slow) > MOST:
        yield f"and {len(slow) - MOST:,} more, in ranks.arrow"


def as_plain(found: Fleet, *, losses: int) -> dict[str, object]:
    """Return what `show_fleet` prints as plain data, in whole nanoseconds; with every rank."""
    stages = fleet_stages(found)
    return {
        "reports": len(found.states),
        "failed": {state.name: state.error for state in found.failed},
        "verdicts": [words.verdict(stage) for stage in stages],
        "slow": list(slow_ranks(found)),
        "cautions": list(found.cautions),
        "stages": stages,
        "ranks": found.ranks.to_pylist(),
        "losses": found.roofline.slice(0, losses).to_pylist(),
    }


def _with_slowest(found: Fleet, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    named = has_ranks(found.ranks)
    return [{**row, "slowest": _slowest(row, named=named)} for row in rows]


def _slowest(row: Mapping[str, Any], *, named: bool) -> str:
    return rank_name(row["slowest_rank"], row["slowest_report"], named=named)


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(printable_line(text), style=style, highlight=False, markup=False, soft_wrap=True)
