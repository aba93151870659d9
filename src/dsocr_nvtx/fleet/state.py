"""What is known of each report of a fleet, one small file each, so that a second call repeats nothing.

A state is written after the report's tables are in place, and taken away before they are replaced: a process that dies
leaves a report either done or not begun.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from attrs import asdict, evolve, field, frozen

from dsocr_nvtx.ingest.digest import digest
from dsocr_nvtx.roofline.joined import ACCOUNTING, TABLES
from dsocr_nvtx.schema.files import write_json

FORMAT = 1
"""Grows when the files of a fleet change, so that older ones are made again."""


@frozen
class Stamp:
    """What tells, without reading it, that a file has changed."""

    size: int
    mtime_ns: int


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file, or of all files of a directory together; `OSError` where there is none."""
    files = [path] if not path.is_dir() else sorted(one for one in path.rglob("*") if one.is_file())
    stats = [one.stat() for one in files]
    return Stamp(sum(one.st_size for one in stats), max((one.st_mtime_ns for one in stats), default=0))


@frozen(kw_only=True)
class ReportState:
    """How a report came out. ``lasting``: the same file under the same ``settings`` would come out the same again."""

    name: str
    path: str
    settings: str
    stamp: Stamp | None
    sha256: str = ""
    error: str = ""
    lasting: bool = True
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_kb: int = 0
    level: str = ""
    note: str = ""
    ranks: Mapping[str, Mapping[str, object]] = field(factory=dict)
    totals: Mapping[str, Mapping[str, int]] = field(factory=dict)

    @property
    def done(self) -> bool:
        """Whether it was joined."""
        return not self.error


@frozen
class Folders:
    """Where things lie in a fleet's directory."""

    out: Path

    def part(self, table: str, name: str) -> Path:
        """Return the partition of a table that holds one report's rows, or the file with its accounting."""
        if table == ACCOUNTING:
            return self.out / table / f"{name}.json"
        return self.out / table / f"report={name}" / "part.parquet"

    def state(self, name: str) -> Path:
        """Return the state of one report."""
        return self.out / "state" / f"{name}.json"

    def forget(self, name: str) -> None:
        """Take one report's state and tables away."""
        self.state(name).unlink(missing_ok=True)
        self.part(ACCOUNTING, name).unlink(missing_ok=True)
        for table in TABLES:
            # Whole, as it is ours: a process that was killed there left a temporary file beside the part.
            shutil.rmtree(self.part(table, name).parent, ignore_errors=True)

    def names(self) -> set[str]:
        """Return the reports that have a state."""
        return {path.name.removesuffix(".json") for path in (self.out / "state").glob("[!.]*.json")}


def write_state(folders: Folders, state: ReportState) -> None:
    """Write a report's state, whole or not at all."""
    write_json({"format": FORMAT, **asdict(state)}, folders.state(state.name))


def read_state(folders: Folders, name: str) -> ReportState | None:
    """Return a report's state; None where there is none, or none that this version can use."""
    try:
        found = json.loads(folders.state(name).read_text(encoding="utf-8"))
        if found.pop("format") != FORMAT:
            return None
        stamp = found.pop("stamp")
        return ReportState(**found, stamp=Stamp(**stamp) if stamp is not None else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def current_state(folders: Folders, name: str, path: Path, settings: str) -> ReportState | None:
    """Return what is known of a report if it still holds: same settings, same file, and its tables are there.

    A file with another time but the same bytes is the same file.
    """
    state = read_state(folders, name)
    if state is None or not state.lasting or state.settings != settings or state.path != str(path):
        return None
    if state.done and not all(folders.part(table, name).is_file() for table in TABLES):
        return None
    try:
        now = stamp_of(path)
        if now == state.stamp:
            return state
        if state.stamp is None or now.size != state.stamp.size or not state.sha256 or digest(path) != state.sha256:
            return None
    except OSError:
        return None
    renewed = evolve(state, stamp=now)
    write_state(folders, renewed)
    return renewed
