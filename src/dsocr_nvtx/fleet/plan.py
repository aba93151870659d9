"""What is left to do for a fleet: known before any report is read, and refused where it would lose what is there."""

import json
from collections.abc import Sequence
from pathlib import Path

from attrs import field, frozen

from dsocr_nvtx import __version__
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.fleet.inputs import Input
from dsocr_nvtx.fleet.parts import parts_hold
from dsocr_nvtx.fleet.recorded import check_runs
from dsocr_nvtx.fleet.state import FORMAT, Folders, ReportState, read_state, same_report, write_state
from dsocr_nvtx.fleet.task import Task
from dsocr_nvtx.ingest.digest import digest
from dsocr_nvtx.schema.directories import FLEET
from dsocr_nvtx.schema.files import check_place
from dsocr_nvtx.schema.tables import SCHEMA_VERSION


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
    folders.check_links()
    stale = sorted(folders.names() - {one.name for one in inputs})
    if not options.force:
        _check_others(folders, inputs, stale)
    known, tasks = {}, []
    for one in inputs:
        path = one.path.resolve()
        state = None if options.force else _known(folders, one.name, path, settings)
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
    return Plan(folders=folders, names=names, known=known, tasks=tasks, stale=stale)


def _check_others(folders: Folders, inputs: Sequence[Input], stale: Sequence[str]) -> None:
    """Refuse a fleet whose tables would make place for those of other reports."""
    remedy = "name another directory, or replace what is in it with --force"
    ours = folders.names()
    new = [one.name for one in inputs if one.name not in ours]
    if stale and new:
        raise Refused(folders.out, f"a fleet of other reports, {stale[0]} among them, without {new[0]}", remedy)
    for one in inputs:
        path, state = one.path.resolve(), read_state(folders, one.name)
        if state is not None and state.done and state.path != str(path) and same_report(state, path) is None:
            raise Refused(folders.out, f"a fleet whose report {one.name} is {state.path}, not {path}", remedy)


def _known(folders: Folders, name: str, path: Path, settings: str) -> ReportState | None:
    """Return what is known of a report if it still holds: same settings, same report, and its tables are whole."""
    state = read_state(folders, name)
    if state is None or not state.lasting or state.settings != settings:
        return None
    now = same_report(state, path)
    if now is None or (now.done and not parts_hold(folders, name)):
        return None
    if now != state:
        write_state(folders, now)
    return now
