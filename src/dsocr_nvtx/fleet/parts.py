"""The partitions of a fleet's tables, one file per report, read back only if they are what was written."""

import stat
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.fleet.state import Folders
from dsocr_nvtx.roofline.joined import TABLES
from dsocr_nvtx.schema.checking import digest
from dsocr_nvtx.schema.joins import Part
from dsocr_nvtx.schema.seal import files_in

READ = ("roofline", "stages")
"""Tables whose partitions are read again, to be merged and shown."""


def parts_hold(folders: Folders, name: str) -> bool:
    """Say whether a report's partitions are all there, and those that are read again have the bytes that were noted."""
    parts = {table: folders.part(table, name) for table in TABLES}
    try:
        if not all(stat.S_ISREG(part.lstat().st_mode) for part in parts.values()):
            return False
        noted = _noted(folders, name)
        return all(digest(parts[table]) == noted.get(_key(folders, parts[table])) for table in READ)
    except (Refused, OSError):
        return False


def read_partitions(folders: Folders, table: str, names: Sequence[str]) -> pa.Table:
    """Return the rows of some reports, with the report's name in column ``report``."""
    every = []
    for name in names:
        rows = Part(folders.out, name).read(table)
        report = pa.DictionaryArray.from_arrays(pa.array([0] * len(rows), pa.int32()), pa.array([name]))
        every.append(rows.append_column("report", report))
    return pa.concat_tables(every).unify_dictionaries()


def _noted(folders: Folders, name: str) -> dict[str, str]:
    return files_in(Part(folders.out, name).told)


def _key(folders: Folders, path: Path) -> str:
    return path.relative_to(folders.out).as_posix()
