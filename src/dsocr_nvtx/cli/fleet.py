"""`join` of several reports: a bar over all of them, the merged tables, the slowest rank of each stage, what failed."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dsocr_nvtx.cli.outputs import tell, written
from dsocr_nvtx.errors import Partial, UsageError, printable_line
from dsocr_nvtx.fleet.cluster import Tls
from dsocr_nvtx.fleet.crew import Crew, dask_crew, local_crew
from dsocr_nvtx.fleet.engine import FAILED, Fleet, FleetOptions, join_fleet, plan_fleet, read_fleet
from dsocr_nvtx.fleet.inputs import inputs_of
from dsocr_nvtx.fleet.state import ReportState
from dsocr_nvtx.report.columns import wide_console
from dsocr_nvtx.report.fleet_page import PAGE, write_fleet_pages
from dsocr_nvtx.report.fleet_terminal import as_plain, show_fleet
from dsocr_nvtx.schema.files import check_file
from dsocr_nvtx.schema.terminal import Terminal


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


def show_joined_fleet(directory: Path, *, losses: int, as_json: bool) -> None:
    """Print a fleet again, as its last join left it."""
    found = read_fleet(directory)
    if as_json:
        print(json.dumps(as_plain(found, losses=losses), indent=2))
    else:
        show_fleet(wide_console(), found, losses=losses)


def write_fleet_review(directory: Path, out: Path, *, force: bool) -> None:
    """Write a fleet's page, and beside it a folder with the review of each rank that it leads to."""
    check_file(out, force=force)
    write_fleet_pages(read_fleet(directory), out)


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
    done = len(found.states) - len(found.failed)
    console.print(
        f"{done} of {len(found.states)} reports joined, {found.joined} of them looked at now"
        + (f"; {found.forgotten} no longer named, and taken away" if found.forgotten else ""),
        highlight=False,
    )
    show_fleet(console, found)
    first = next(name for name, state in found.states.items() if state.done)
    tell(f"\ntables: {found.out}\none rank alone: dsocr-nvtx show {found.out / first}")
    tell(f"open this in a browser: {found.out / PAGE}")
