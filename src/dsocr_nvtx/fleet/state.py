"""What is known of each report of a fleet, one small file each, so that a second call repeats nothing.

A state is written after the report's tables are in place, and taken away before they are replaced: a process that dies
leaves a report either done or not begun.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, field, frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.digest import digest
from dsocr_nvtx.roofline.joined import TABLES
from dsocr_nvtx.schema.directories import SERVED_TABLES
from dsocr_nvtx.schema.files import write_json
from dsocr_nvtx.schema.joins import ACCOUNTING, Part
from dsocr_nvtx.schema.seal import read_sealed, sealed

FORMAT = 3
"""Grows when the files of a fleet change, so that older ones are made again."""

PAGES = "rank-pages"
"""Where the reports' own pages lie."""


@frozen
class Stamp:
    """What tells, without reading it, that a file is the same: the system alone sets ``ctime_ns``, at every change.

    Times that a user can set, as copying tools do, and the size stay as they were where only content has changed.
    """

    size: int
    ctime_ns: int
    inode: int


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file, or of a directory and all its files together; `OSError` where there is none."""
    files = [path] if not path.is_dir() else [path, *sorted(one for one in path.rglob("*") if one.is_file())]
    stats = [one.stat() for one in files]
    return Stamp(sum(one.st_size for one in stats), max(one.st_ctime_ns for one in stats), stats[0].st_ino)


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
        return Part(self.out, name).file(table)

    def state(self, name: str) -> Path:
        """Return the state of one report."""
        return self.out / "state" / f"{name}.json"

    def forget(self, name: str) -> None:
        """Take one report's state and tables away."""
        self.state(name).unlink(missing_ok=True)
        self.part(ACCOUNTING, name).unlink(missing_ok=True)
        for table in (*TABLES, *SERVED_TABLES):
            # Whole, as it is ours: a process that was killed there left a temporary file beside the part.
            shutil.rmtree(self.part(table, name).parent, ignore_errors=True)

    def check_links(self) -> None:
        """Refuse a link among what is ours: through it, what lies elsewhere would be overwritten or deleted."""
        for ours in (*TABLES, *SERVED_TABLES, ACCOUNTING, "state", PAGES):
            for place, folders, files in os.walk(self.out / ours):
                for path in (Path(place), *(Path(place) / name for name in (*folders, *files))):
                    if path.is_symlink():
                        raise Refused(path, "a link inside a fleet's directory", "remove it: what it leads to stays")

    def names(self) -> set[str]:
        """Return the reports that have a state."""
        return {path.name.removesuffix(".json") for path in (self.out / "state").glob("[!.]*.json")}


def write_state(folders: Folders, state: ReportState) -> None:
    """Write a report's state, whole or not at all."""
    write_json(sealed({"format": FORMAT, **asdict(state)}), folders.state(state.name))


def read_state(folders: Folders, name: str) -> ReportState | None:
    """Return a report's state; None where there is none, a damaged one, or none that this version can use."""
    try:
        found: dict[str, Any] = read_sealed(folders.state(name), "no state", "")
        if found.pop("format") != FORMAT:
            return None
        stamp = found.pop("stamp")
        return ReportState(**found, stamp=Stamp(**stamp) if stamp is not None else None)
    except (Refused, ValueError, KeyError, TypeError):
        return None


def same_report(state: ReportState, path: Path) -> ReportState | None:
    """Return the state of what is at ``path`` now if that is the same report; None if it is another, or none.

    A file of the same bytes is the same report, wherever it lies.
    """
    try:
        now = stamp_of(path)
        if state.path == str(path) and now == state.stamp:
            return state
        if state.stamp is None or now.size != state.stamp.size or not state.sha256 or digest(path) != state.sha256:
            return None
    except OSError:
        return None
    return evolve(state, stamp=now, path=str(path))
