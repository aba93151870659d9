"""The partitions of a fleet's tables, one file per report, read back only if they are what was written."""

import stat
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.fleet.state import Folders
from dsocr_nvtx.roofline.joined import ACCOUNTING, TABLES
from dsocr_nvtx.schema.checking import check_columns, check_valid, digest, read_regular
from dsocr_nvtx.schema.directories import JOINED_TABLES
from dsocr_nvtx.schema.seal import check_seal, files_in, read_sealed

READ = ("roofline", "stages")
"""Tables whose partitions are read again, to be merged and shown."""
_AGAIN = "join the report again: remove its file in the fleet's directory state, and repeat the call"


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


def read_part(folders: Folders, table: str, name: str) -> pa.Table:
    """Return one report's rows of a table; refuse a partition that is damaged, or not the one that was written."""
    path = folders.part(table, name)
    data = read_regular(path, _AGAIN)
    # First: what reads Parquet takes a damaged file for whole more often than not.
    check_seal(path, data, _noted(folders, name).get(_key(folders, path), ""))
    try:
        found = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError) as cause:
        raise Refused(path, "not a Parquet file, or a damaged one", _AGAIN) from cause
    check_valid(found, path)
    check_columns(found, JOINED_TABLES[table], path, _AGAIN)
    return found


def read_partitions(folders: Folders, table: str, names: Sequence[str]) -> pa.Table:
    """Return the rows of some reports, with the report's name in column ``report``."""
    every = []
    for name in names:
        rows = read_part(folders, table, name)
        report = pa.DictionaryArray.from_arrays(pa.array([0] * len(rows), pa.int32()), pa.array([name]))
        every.append(rows.append_column("report", report))
    return pa.concat_tables(every).unify_dictionaries()


def _noted(folders: Folders, name: str) -> dict[str, str]:
    path = folders.part(ACCOUNTING, name)
    return files_in(read_sealed(path, "not the accounting of a join", _AGAIN))


def _key(folders: Folders, path: Path) -> str:
    return path.relative_to(folders.out).as_posix()
