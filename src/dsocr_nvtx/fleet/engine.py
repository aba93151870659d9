"""The join of many reports: what is not done yet is joined, and what all of them say is put together.

In the fleet's directory: ``kernels``, ``ranges``, ``roofline`` and ``stages``, each partitioned as
``TABLE/report=NAME/part.parquet``; ``roofline.arrow``, ``stages.arrow`` and ``ranks.arrow``; ``fleet.json`` (what was
asked, totals), ``failed.json`` (reports that could not be joined), ``accounting`` and ``state`` (one file per report).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
from attrs import field, frozen

from dsocr_nvtx import __version__
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.fleet.crew import ATTEMPTS, Crew, work_through
from dsocr_nvtx.fleet.inputs import Input
from dsocr_nvtx.fleet.merge import merged_roofline, merged_stages
from dsocr_nvtx.fleet.notes import cautions
from dsocr_nvtx.fleet.recorded import check_runs, recorded_runs
from dsocr_nvtx.fleet.spread import fleet_ranks, slowest_causes
from dsocr_nvtx.fleet.state import FORMAT, Folders, ReportState, current_state, write_state
from dsocr_nvtx.fleet.task import Task, join_one, totals_of
from dsocr_nvtx.ingest.digest import digest
from dsocr_nvtx.schema.directories import FLEET
from dsocr_nvtx.schema.files import check_place, read_table, write_json, write_table
from dsocr_nvtx.schema.ranks import Rank
from dsocr_nvtx.schema.tables import SCHEMA_VERSION

FAILED = "failed.json"
MERGED = ("roofline", "stages", "ranks")


@frozen(kw_only=True)
class FleetOptions:
    """How reports are joined: on which roofs, with which run directories, and whether done ones are done again."""

    hardware: str | None = None
    ceilings: Path | None = None
    run: Path | None = None
    force: bool = False

    def settings(self) -> str:
        """Return a text that differs where a report's tables would."""
        roofs = digest(self.ceilings) if self.ceilings is not None else None
        return json.dumps([FORMAT, __version__, SCHEMA_VERSION, self.hardware, roofs])


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


@frozen(kw_only=True)
class Plan:
    """What is left to do: reports whose state holds, reports to join, and reports that are not asked for any more.

    ``names`` is every report asked for, in order: what is put together does not depend on which ended first.
    """

    folders: Folders
    names: list[str]
    known: dict[str, ReportState]
    tasks: list[Task] = field(factory=list)
    stale: list[str] = field(factory=list)


def plan_fleet(inputs: Sequence[Input], out: Path, options: FleetOptions) -> Plan:
    """Return what has to be done. Refused: a directory that is neither empty nor a fleet's, and one without runs."""
    folders = Folders(out)
    check_place(out)
    if out.exists() and not out.is_dir():
        raise Refused(out, "a file", "name a directory")
    if out.is_dir() and any(out.iterdir()) and not (out / FLEET).is_file():
        raise Refused(out, f"a directory without {FLEET}, so no fleet's", "name another")
    if options.run is not None:
        check_runs(options.run)
    settings = options.settings()
    known, tasks = {}, []
    for one in inputs:
        path = one.path.resolve()
        state = None if options.force else current_state(folders, one.name, path, settings)
        if state is not None:
            known[one.name] = state
        else:
            ceilings = str(options.ceilings.resolve()) if options.ceilings is not None else None
            tasks.append(
                Task(
                    name=one.name,
                    path=str(path),
                    out=str(out.resolve()),
                    settings=settings,
                    hardware=options.hardware,
                    ceilings=ceilings,
                )
            )
    names = [one.name for one in inputs]
    return Plan(folders=folders, names=names, known=known, tasks=tasks, stale=sorted(folders.names() - set(names)))


def join_fleet(
    plan: Plan, crew: Callable[[], Crew], options: FleetOptions, note: Callable[[ReportState], None] = lambda _: None
) -> Fleet:
    """Carry a plan out and put together what all reports say; ``note`` hears of each report that ends.

    A report that cannot be joined is kept as failed, and the others go on. The merged tables' sums are held to those
    of the reports' own tables, exactly.
    """
    folders, states = plan.folders, dict(plan.known)
    if plan.tasks or plan.stale:
        folders.out.mkdir(parents=True, exist_ok=True)
        _write_marker(folders.out, None)
        for name in plan.stale:
            folders.forget(name)
    for state in work_through(crew(), plan.tasks, join_one, _given_up) if plan.tasks else ():
        states[state.name] = state
        note(state)
    states = {name: states[name] for name in plan.names}
    whole = _is_complete(folders.out)
    changed = bool(plan.tasks or plan.stale) or not whole or options.run is not None
    return _merged(folders, states, plan, options, changed=changed)


def _is_complete(out: Path) -> bool:
    """Return whether the last call put its tables together: a process may have been killed before."""
    try:
        complete = json.loads((out / FLEET).read_text(encoding="utf-8"))["complete"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return complete is True and all((out / f"{name}.arrow").is_file() for name in MERGED)


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
    return {name: read_table(out / f"{name}.arrow") for name in MERGED}


def read_partitions(folders: Folders, table: str, names: Sequence[str]) -> pa.Table:
    """Return the rows of some reports, with the report's name in column ``report``."""
    files = [str(folders.part(table, name)) for name in names]
    kind = ds.partitioning(pa.schema([("report", pa.string())]), flavor="hive")
    found = ds.dataset(files, format="parquet", partitioning=kind, partition_base_dir=str(folders.out / table))
    rows = found.to_table()
    at = rows.schema.get_field_index("report")
    return rows.set_column(at, "report", rows["report"].cast(pa.string()).dictionary_encode())


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
        write_json({"dsocr_nvtx": __version__, "complete": False}, out / FLEET)
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
    about = {"complete": True, "reports": len(states), "failed": len(failed), "totals": totals}
    write_json({"dsocr_nvtx": __version__, **about}, out / FLEET)
