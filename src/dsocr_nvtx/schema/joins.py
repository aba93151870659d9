"""What `join` wrote, of one report or of many, and the one way to its tables.

A directory may be that of one report's join; a fleet's, of many; or a report in a fleet, as FLEET/NAME, whose tables
are parts of the fleet's. Tables of a whole fleet are those of its reports one after another: `pid` is then a number
that no two of them share, `process_name` says whose.
"""

import json
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.checking import check_columns, check_finite, check_valid, read_regular
from dsocr_nvtx.schema.directories import BESIDE, FLEET, JOINED, JOINED_TABLES, LATER_TABLES, REMEDY, RUN, SERVED_TABLES
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.seal import check_seal, files_in, read_sealed

ACCOUNTING = "accounting"
"""What went where in a join, by name; its file in a report's own directory is `JOINED`."""
AGAIN = "join the report again: remove its file in the fleet's directory state, and repeat the call"
_TABLES = {**JOINED_TABLES, **BESIDE, **LATER_TABLES, **SERVED_TABLES}
_PROCESS_BITS = 32
"""Process ids of a system are below 2**32: above them stands which report of a fleet it is."""
_REPORTS = b"fleet_reports"
"""Metadata of a whole fleet's tables: the names of its reports, in order."""


@frozen
class Part:
    """Where one report's join lies: in a directory of its own, or, with a ``name``, in the fleet's ``folder``."""

    folder: Path
    name: str = ""

    def file(self, table: str) -> Path:
        """Return the file of a table, or that of the accounting."""
        if not self.name:
            return self.folder / (JOINED if table == ACCOUNTING else f"{table}.arrow")
        if table == ACCOUNTING:
            return self.folder / table / f"{self.name}.json"
        return self.folder / table / f"report={self.name}" / "part.parquet"

    @cached_property
    def told(self) -> dict[str, Any]:
        """What the accounting tells; a damaged one is refused."""
        remedy = AGAIN if self.name else REMEDY
        return read_sealed(self.file(ACCOUNTING), "not the accounting of a join", remedy)

    def read(self, table: str, needed: Sequence[str] | None = None) -> pa.Table:
        """Return a table: whole, undamaged, with the columns ``needed`` (all of its schema)."""
        path, schema = self.file(table), _TABLES[table]
        noted = files_in(self.told).get(path.relative_to(self.folder).as_posix())
        if not self.name:
            return check_finite(read_table(path, schema, needed=needed, sha256=noted, remedy=REMEDY), path, REMEDY)
        data = read_regular(path, AGAIN)
        # First: what reads Parquet takes a damaged file for whole more often than not.
        check_seal(path, data, noted or "")
        try:
            found = pq.read_table(pa.BufferReader(data))
        except (pa.ArrowException, OSError, ValueError) as cause:
            raise Refused(path, "not a Parquet file, or a damaged one", AGAIN) from cause
        check_valid(found, path)
        check_columns(found, schema, path, AGAIN, needed=needed)
        return found

    def has(self, table: str) -> bool:
        """Say whether the join wrote a table: one that is missing though it is noted is for `read` to refuse."""
        path = self.file(table)
        return path.exists() or path.relative_to(self.folder).as_posix() in files_in(self.told)


@frozen
class JoinedDirectory:
    """What `join` wrote into a directory: one part, or of a fleet one a report."""

    parts: tuple[Part, ...]
    is_fleet: bool

    def table(self, name: str, needed: Sequence[str] | None = None) -> pa.Table:
        """Return a table, of a fleet that of all its reports: see `Part.read`."""
        if not self.is_fleet:
            return self.parts[0].read(name, needed)
        return _together([part.read(name, needed) for part in self.parts], self.parts)

    def beside(self, name: str, needed: Sequence[str] | None = None) -> pa.Table | None:
        """Return a table such as ``energy``; None where a join was written without it."""
        return self.table(name, needed) if all(part.has(name) for part in self.parts) else None


def open_directory(folder: Path) -> JoinedDirectory:
    """Open what `join` wrote: a report's directory, a fleet's, or FLEET/NAME; refuse what it did not write whole."""
    if is_fleet(folder):
        if read_sealed(folder / FLEET, "not what a fleet's join writes of itself", AGAIN).get("complete") is not True:
            raise Refused(folder, "a fleet whose last join did not end", "repeat that join")
        return JoinedDirectory(tuple(Part(folder, name) for name in _names(folder)), is_fleet=True)
    if not folder.exists() and is_fleet(folder.parent):
        names = _names(folder.parent)
        if folder.name not in names:
            raise Refused(folder, f"no report of that name in the fleet {folder.parent}", f"it has {_some(names)}")
        return JoinedDirectory((Part(folder.parent, folder.name),), is_fleet=False)
    _check_own(folder)
    return JoinedDirectory((Part(folder),), is_fleet=False)


def is_fleet(folder: Path) -> bool:
    """Say whether a directory is a fleet's."""
    return (folder / FLEET).is_file()


def _names(fleet: Path) -> list[str]:
    return sorted(path.name.removesuffix(".json") for path in (fleet / ACCOUNTING).glob("[!.]*.json"))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_own(folder: Path) -> None:
    if not folder.exists():
        raise Refused(folder, "no such directory", REMEDY)
    if not folder.is_dir():
        raise Refused(
            folder, "a file, not the directory that join wrote", f"dsocr-nvtx join {folder}, if it is a report"
        )
    if not (folder / JOINED).is_file():
        remedy = f"dsocr-nvtx join REPORT --run {folder} -o OUT, and name OUT"
        is_run = (folder / RUN).is_file()
        raise Refused(folder, "a run's directory" if is_run else "no join.json in it", remedy if is_run else REMEDY)


def _together(tables: Sequence[pa.Table], parts: Sequence[Part]) -> pa.Table:
    """Return the tables of a fleet's reports as one; its metadata has what they tell alike, else what each tells."""
    every = []
    for at, table in enumerate(tables):
        if "pid" in table.column_names:
            numbered = table["pid"].to_numpy() + process_number(at, 0)
            table = table.set_column(table.column_names.index("pid"), table.schema.field("pid"), pa.array(numbered))  # noqa: PLW2901
        every.append(table)
    told = [table.schema.metadata or {} for table in tables]
    keys = dict.fromkeys(key for one in told for key in one)
    about = {key: b", ".join(dict.fromkeys(one[key] for one in told if key in one)) for key in keys}
    about[_REPORTS] = json.dumps([part.name for part in parts]).encode()
    shared = [name for name in every[0].column_names if all(name in table.column_names for table in every)]
    whole = pa.concat_tables([table.select(shared).replace_schema_metadata(None) for table in every])
    return whole.unify_dictionaries().replace_schema_metadata(about)


def process_number(report: int, pid: int) -> int:
    """Return the ``pid`` in a whole fleet's tables of a process of the report of that number."""
    return (report << _PROCESS_BITS) + pid


def process_name(table: pa.Table, pid: int) -> str:
    """Return what a process is called that a table's ``pid`` names: in a whole fleet's, by its report too."""
    names = _report_names((table.schema.metadata or {}).get(_REPORTS, b""))
    if not names:
        return f"process {pid}"
    return f"{names[pid >> _PROCESS_BITS]}, process {pid % (1 << _PROCESS_BITS)}"


@cache
def _report_names(told: bytes) -> list[str]:
    return [str(name) for name in json.loads(told)] if told else []
