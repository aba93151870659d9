"""The join of many reports: what is not done yet is joined, and what all of them say is put together.

In the fleet's directory: ``kernels``, ``ranges``, ``roofline`` and ``stages``, each partitioned as
``TABLE/report=NAME/part.parquet``; ``roofline.arrow``, ``stages.arrow`` and ``ranks.arrow``; ``fleet.json`` (what was
asked, totals), ``failed.json`` (reports that could not be joined), ``accounting`` and ``state`` (one file per report).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
from attrs import frozen

from dsocr_nvtx import __version__
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.fleet.crew import ATTEMPTS, Crew, work_through
from dsocr_nvtx.fleet.inputs import natural
from dsocr_nvtx.fleet.merge import merged_roofline, merged_stages
from dsocr_nvtx.fleet.notes import cautions
from dsocr_nvtx.fleet.parts import read_partitions
from dsocr_nvtx.fleet.plan import FleetOptions, Plan, plan_fleet
from dsocr_nvtx.fleet.recorded import recorded_runs
from dsocr_nvtx.fleet.spread import fleet_ranks, slowest_causes
from dsocr_nvtx.fleet.state import Folders, ReportState, read_state, write_state
from dsocr_nvtx.fleet.task import Task, join_one, totals_of
from dsocr_nvtx.schema.directories import FLEET
from dsocr_nvtx.schema.files import read_table, write_json, write_table
from dsocr_nvtx.schema.fleet import FLEET_RANKS, MERGED_ROOFLINE, MERGED_STAGES
from dsocr_nvtx.schema.joins import AGAIN, open_directory
from dsocr_nvtx.schema.ranks import Rank
from dsocr_nvtx.schema.seal import FILES, digests, files_in, read_sealed, sealed

__all__ = ["Fleet", "FleetOptions", "Plan", "join_fleet", "plan_fleet"]

FAILED = "failed.json"
MERGED = {"roofline": MERGED_ROOFLINE, "stages": MERGED_STAGES, "ranks": FLEET_RANKS}


@frozen(kw_only=True, eq=False)
class Fleet:
    """What a call found: every report's state by name, the reports joined just now, and the merged tables.

    ``unchanged``: nothing was joined and nothing else changed, so the merged tables are those of the last call.
    """

    out: Path
    states: dict[str, ReportState]
    joined: int
    forgotten: int
    unchanged: bool
    roofline: pa.Table
    stages: pa.Table
    ranks: pa.Table

    @property
    def failed(self) -> list[ReportState]:
        """Reports that could not be joined."""
        return [state for state in self.states.values() if not state.done]

    @property
    def cautions(self) -> list[str]:
        """What to read with care, a line each."""
        done = [state for state in self.states.values() if state.done]
        return sorted({state.note for state in done} - {""}) + cautions(self.ranks, (state.level for state in done))


def join_fleet(
    plan: Plan, crew: Callable[[], Crew], options: FleetOptions, note: Callable[[ReportState], None] = lambda _: None
) -> Fleet:
    """Carry a plan out and put together what all reports say; ``note`` hears of each report that ends.

    A report that cannot be joined is kept as failed, and the others go on. The merged tables' sums are held to those
    of the reports' own tables, exactly.
    """
    folders, states = plan.folders, dict(plan.known)
    team = crew() if plan.tasks else None  # first: where there is none, nothing is written
    if plan.tasks or plan.stale:
        folders.out.mkdir(parents=True, exist_ok=True)
        _write_marker(folders.out, None)
        for name in plan.stale:
            folders.forget(name)
    for state in work_through(team, plan.tasks, join_one, _given_up) if team is not None else ():
        states[state.name] = state
        note(state)
    states = {name: states[name] for name in plan.names}
    whole = _is_complete(folders.out)
    changed = bool(plan.tasks or plan.stale) or not whole or options.run is not None
    return _merged(folders, states, plan, options, changed=changed)


def read_fleet(out: Path) -> Fleet:
    """Return a fleet as its last join left it; refuse one that did not end, or one of whose files is damaged."""
    open_directory(out)
    if not _is_complete(out):
        raise Refused(out, "a fleet whose merged tables are damaged", "repeat its join")
    folders = Folders(out)
    states = {}
    for name in sorted(folders.names(), key=natural):
        state = read_state(folders, name)
        if state is None:
            raise Refused(folders.state(name), "not the state of a report", AGAIN)
        states[name] = state
    return Fleet(out=out, states=states, joined=0, forgotten=0, unchanged=True, **_written(out))


def _is_complete(out: Path) -> bool:
    """Return whether the last call put its tables together: a process may have been killed before."""
    try:
        told = read_sealed(out / FLEET, "no fleet", "")
        return told.get("complete") is True and files_in(told) == digests(out, _merged_files(out))
    except Refused:
        return False


def _merged_files(out: Path) -> list[Path]:
    return [out / f"{name}.arrow" for name in MERGED]


def _given_up(task: Task, reason: str) -> ReportState:
    error = f"{task.path}: its process died {ATTEMPTS} times ({reason})"
    state = ReportState(
        name=task.name, path=task.path, settings=task.settings, stamp=None, error=error, lasting=False
    )  # fmt: skip
    write_state(Folders(Path(task.out)), state)
    return state


def _merged(
    folders: Folders, states: dict[str, ReportState], plan: Plan, options: FleetOptions, *, changed: bool
) -> Fleet:
    done = [state for state in states.values() if state.done]
    if not done:
        _write_marker(folders.out, states)
        first = next(iter(states.values()))
        raise Refused(folders.out, f"none of {len(states)} reports could be joined", f"the first: {first.error}")
    tables = _tables(folders, done, options) if changed else _written(folders.out)
    _check_totals(tables, done)
    if changed:
        for name, table in tables.items():
            write_table(table, folders.out / f"{name}.arrow")
        _write_marker(folders.out, states)
    return Fleet(
        out=folders.out,
        states=states,
        joined=len(plan.tasks),
        forgotten=len(plan.stale),
        unchanged=not changed,
        **tables,
    )


def _tables(folders: Folders, done: Sequence[ReportState], options: FleetOptions) -> dict[str, pa.Table]:
    """Return the merged tables, from the partitions of all reports that are done."""
    rows, stages = (read_partitions(folders, table, [state.name for state in done]) for table in ("roofline", "stages"))
    about = {"dsocr_nvtx": __version__, "reports": str(len(done)), "level": "+".join(sorted({s.level for s in done}))}
    told = {(s.name, int(pid)): Rank(**values) for s in done for pid, values in s.ranks.items()}  # type: ignore[arg-type]
    recorded = {}
    if options.run is not None:
        runs = recorded_runs(options.run, (rank.rank for rank in told.values()))
        recorded = {key: runs[rank.rank] for key, rank in told.items() if rank.rank in runs}
    ranks = fleet_ranks(stages, told, recorded, about)
    return {
        "roofline": merged_roofline(rows, about),
        "stages": merged_stages(stages, slowest_causes(ranks), about),
        "ranks": ranks,
    }


def _written(out: Path) -> dict[str, pa.Table]:
    return {name: read_table(out / f"{name}.arrow", schema) for name, schema in MERGED.items()}


def _check_totals(tables: dict[str, pa.Table], done: Sequence[ReportState]) -> None:
    """Hold the merged tables to what each report's tables added up to when they were written."""
    for name in ("roofline", "stages"):
        merged = totals_of(tables[name])
        for column in done[0].totals[name]:
            reports = sum(state.totals[name][column] for state in done)
            if column in merged and merged[column] != reports:
                raise AssertionError(f"{name}.{column}: {merged[column]} merged, {reports} in the reports; report this")


def _write_marker(out: Path, states: dict[str, ReportState] | None) -> None:
    """Write what a directory is, and, when all reports have ended, what failed."""
    if states is None:
        write_json(sealed({"dsocr_nvtx": __version__, "complete": False}), out / FLEET)
        return
    lost = [state for state in states.values() if not state.done]
    failed = [{"report": s.name, "path": s.path, "error": s.error, "lasting": s.lasting} for s in lost]
    write_json(failed, out / FAILED)
    totals = {
        table: {
            column: sum(s.totals[table][column] for s in states.values() if s.done)
            for column in next((s.totals[table] for s in states.values() if s.done), {})
        }
        for table in ("roofline", "stages")
    }
    files = digests(out, [file for file in _merged_files(out) if file.is_file()])
    about = {"complete": True, "reports": len(states), "failed": len(failed), "totals": totals, FILES: files}
    write_json(sealed({"dsocr_nvtx": __version__, **about}), out / FLEET)
