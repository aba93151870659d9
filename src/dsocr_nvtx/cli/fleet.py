"""`join` of several reports: a bar over all of them, the merged tables, the slowest rank of each stage, what failed."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dsocr_nvtx.cli.outputs import tell, written
from dsocr_nvtx.errors import Partial, UsageError, printable_line
from dsocr_nvtx.fleet.cluster import Tls
from dsocr_nvtx.fleet.crew import Crew, dask_crew, local_crew
from dsocr_nvtx.fleet.engine import FAILED, Fleet, FleetOptions, join_fleet, plan_fleet
from dsocr_nvtx.fleet.inputs import inputs_of
from dsocr_nvtx.fleet.notes import by_slowdown, has_ranks, rank_name, slowness, usual_times
from dsocr_nvtx.fleet.state import ReportState
from dsocr_nvtx.report.columns import wide_console
from dsocr_nvtx.report.fleet_page import PAGE, write_fleet_pages
from dsocr_nvtx.schema.terminal import Terminal

_SHOWN = 10


def join_reports(
    reports: Sequence[Path], *, run: Path | None, out: Path, hardware: str | None, ceilings: Path | None,
    force: bool, workers: int | None, scheduler: str | None, tls: Tls | None = None,
) -> None:  # fmt: skip
    """Join all reports into one data set, and print how its ranks lie apart. `Partial` at the end where some failed."""
    if scheduler is not None and workers is not None:
        raise UsageError("--workers is for this machine: a Dask cluster has its own")
    options = FleetOptions(hardware=hardware, ceilings=ceilings, run=run, force=force)
    plan = plan_fleet(inputs_of(reports), out, options)

    def crew() -> Crew:
        if scheduler is not None:
            return dask_crew(scheduler, tls)
        return local_crew(min(workers or _cores(), len(plan.tasks)))

    with _progress(len(plan.tasks), len(plan.known)) as note:
        found = join_fleet(plan, crew, options, note)
    if not found.unchanged or not (out / PAGE).is_file():
        write_fleet_pages(found)
    with written(f"the tables are written: {out}"):
        _show(wide_console(), found)
    if found.failed:
        lost, every = len(found.failed), len(found.states)
        raise Partial(f"{lost} of {every} reports could not be joined; the others are; {out / FAILED} says why")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _progress(tasks: int, known: int) -> Iterator[Callable[[ReportState], None]]:
    """Yield what hears of each report: a bar where stderr is a terminal, one line per failure anywhere."""
    console = Terminal(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal or not tasks
    ) as bar:
        task = bar.add_task("reports", total=tasks + known, completed=known)

        def note(state: ReportState) -> None:
            bar.advance(task)
            if not state.done:
                _say(console, f"failed: {state.name}: {state.error}")

        yield note


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(printable_line(text), style=style, highlight=False, markup=False, soft_wrap=True)


def _show(console: Console, found: Fleet) -> None:
    done, failed = len(found.states) - len(found.failed), found.failed
    console.print(
        f"{done} of {len(found.states)} reports joined, {found.joined} of them looked at now"
        + (f"; {found.forgotten} no longer named, and taken away" if found.forgotten else ""),
        highlight=False,
    )
    named = has_ranks(found.ranks)
    console.print(_stages(found, named=named))
    console.print("usual: the ranks' median busy time and median idle time together", style="dim", highlight=False)
    for line in found.cautions:
        _say(console, f"note: {line}", style="yellow")
    for row in by_slowdown(found.ranks)[:_SHOWN]:
        parts = ", ".join(f"{name} {row[f'{name}_ns'] / 1e6:+,.2f} ms" for name in ("work", "device", "waiting"))
        who = rank_name(row["rank"], row["report"], named=named)
        text = f"{row['stage']}: {who} takes {slowness(row)}: {row['cause']} ({parts})"
        _say(console, text)
    for state in failed[:_SHOWN]:
        _say(console, f"failed: {state.name}: {state.error}")
    if failed:
        _say(console, f"{len(failed)} failed: {found.out / FAILED} lists them")
    tell(f"\ntables: {found.out}\nopen this in a browser: {found.out / PAGE}")


def _stages(found: Fleet, *, named: bool) -> Table:
    usual = usual_times(found.ranks)
    text = Table(box=None, header_style="bold", pad_edge=False)
    for name in (
        "stage",
        "ranks",
        "wall ms",
        "busy ms",
        "idle ms",
        "of roof",
        "slowest",
        "its ms",
        "usual ms",
        "imbalance",
    ):
        text.add_column(name, justify="left" if name in ("stage", "slowest") else "right", no_wrap=True)
    for row in found.stages.to_pylist():
        times = [f"{row[name] / 1e6:,.2f}" for name in ("wall_ns", "busy_owned_ns", "idle_owned_ns")]
        roof = f"{row['efficiency']:.1%}" if row["efficiency"] is not None else "-"
        spread = [f"{ns / 1e6:,.2f}" for ns in (row["slowest_wall_ns"], usual[row["stage"]])]
        imbalance = f"{row['imbalance']:.3f}" if row["imbalance"] is not None else "-"
        who = printable_line(rank_name(row["slowest_rank"], row["slowest_report"], named=named))
        text.add_row(row["stage"], f"{row['ranks']:,}", *times, roof, who, *spread, imbalance)
    return text
