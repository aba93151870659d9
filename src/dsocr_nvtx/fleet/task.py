"""One report of a fleet, joined by whatever process gets it: its tables into their partitions, then its state."""

import resource
import time
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from attrs import asdict, frozen

from dsocr_nvtx.errors import DsocrError, Refused
from dsocr_nvtx.fleet.state import Folders, ReportState, Stamp, stamp_of, write_state
from dsocr_nvtx.ingest.process import prepare_process
from dsocr_nvtx.roofline.joined import JoinedReport, fill_tables, joined_report
from dsocr_nvtx.roofline.points import Roofline


@frozen(kw_only=True)
class Task:
    """A report to join, and where its tables go."""

    name: str
    path: str
    out: str
    settings: str
    hardware: str | None = None
    ceilings: str | None = None


def join_one(task: Task) -> ReportState:
    """Join one report into the fleet's directory and return how it came out; it never raises for a bad report.

    What a report's own bytes decide is lasting; what this machine lacks (a tool, memory, disk) is tried again by the
    next call.
    """
    _heap()
    begun, cpu = time.perf_counter(), time.process_time()
    folders, stamp = Folders(Path(task.out)), None
    found: dict[str, object] = {}
    try:
        folders.forget(task.name)
        stamp = stamp_of(Path(task.path))
        found = _joined(task, folders)
    except OSError as error:
        found = {"error": f"{error.filename or task.path}: {error.strerror or error}", "lasting": False}
    except DsocrError as error:
        found = {"error": str(error), "lasting": isinstance(error, Refused)}
    except Exception as error:  # noqa: BLE001 - a defect met by one report must not cost the others
        found = {"error": f"{task.path}: {type(error).__name__}: {error}", "lasting": False}
    return _kept(task, folders, stamp, found, (time.perf_counter() - begun, time.process_time() - cpu))


@cache
def _heap() -> bool:
    return prepare_process()


def _kept(
    task: Task, folders: Folders, stamp: Stamp | None, found: dict[str, object], spent: tuple[float, float]
) -> ReportState:
    state = ReportState(
        name=task.name,
        path=task.path,
        settings=task.settings,
        stamp=stamp,
        seconds=spent[0],
        cpu_seconds=spent[1],
        peak_kb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        **found,  # type: ignore[arg-type]
    )
    if not state.done:  # what it had written by then
        folders.forget(task.name)
    write_state(folders, state)
    return state


def _joined(task: Task, folders: Folders) -> dict[str, object]:
    ceilings = Path(task.ceilings) if task.ceilings is not None else None
    whole = joined_report(Path(task.path), hardware=task.hardware, ceilings=ceilings)
    found = fill_tables(whole, folders.out, lambda table: folders.part(table, task.name))
    return _summary(whole, found)


def _summary(whole: JoinedReport, found: Roofline) -> dict[str, object]:
    return {
        "sha256": whole.trace.source.get("sha256", ""),
        "level": found.level,
        "note": found.other_gpu,
        "ranks": {str(pid): asdict(rank) for pid, rank in whole.joined.ranks.items()},
        "totals": {"roofline": totals_of(found.rows), "stages": totals_of(found.stages)},
    }


def totals_of(table: pa.Table) -> dict[str, int]:
    """Return the sum of every additive column: what merged tables are held to."""
    names = [
        item.name for item in table.schema
        if pa.types.is_int64(item.type) and item.name not in ("pid", "rank") and not item.nullable
    ]  # fmt: skip
    return {name: int(pc.sum(table[name]).as_py() or 0) for name in names}
