"""A join's directory, opened again: its tables, its accounting, and the roofs they were held against."""

import json
from pathlib import Path
from typing import Any

import cattrs
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.join.inclusive import SHARED_COLUMNS, exclusive_table
from dsocr_nvtx.roofline.points import Roofline
from dsocr_nvtx.schema.checking import check_columns
from dsocr_nvtx.schema.directories import JOINED, REMEDY, JoinedDirectory, open_directory
from dsocr_nvtx.schema.hardware import Ceilings
from dsocr_nvtx.schema.tables import MEASURED


@frozen(eq=False)
class Opened:
    """What `join` wrote into a directory: the roofline and its accounting; further tables are read when asked for."""

    directory: JoinedDirectory
    roofline: Roofline
    accounting: Accounting
    source: dict[str, str]

    @property
    def folder(self) -> Path:
        """The directory."""
        return self.directory.folder

    @property
    def kernels(self) -> pa.Table:
        """Every GPU operation."""
        return self.directory.table("kernels")

    @property
    def ranges(self) -> pa.Table:
        """Every hooked call; costs that version 1 wrote are made exclusive."""
        path = self.folder / "ranges.arrow"
        table = exclusive_table(self.directory.table("ranges", SHARED_COLUMNS), str(path))
        check_columns(table, MEASURED, path, REMEDY)
        return table

    @property
    def kernels_summary(self) -> list[dict[str, object]]:
        """Every kernel by stage and name, the longest total first; none where an earlier version joined."""
        table = self.beside("kernels_summary")
        return table.to_pylist() if table is not None else []

    def beside(self, name: str) -> pa.Table | None:
        """Return a further table of the directory, None where it has none of that name."""
        return self.directory.beside(name)


def open_joined(folder: Path) -> Opened:
    """Return a join's directory; refuse what is none, or was written by a version whose tables lack a column."""
    directory = open_directory(folder)
    accounting, source = _accounting(folder / JOINED, directory.told)
    rows, stages = directory.table("roofline"), directory.table("stages")
    about = {key.decode(): value.decode() for key, value in rows.schema.metadata.items()}
    try:
        roofs = cattrs.structure(json.loads(about["ceilings"]), Ceilings)
    except (KeyError, ValueError, cattrs.BaseValidationError) as cause:
        raise Refused(folder / "roofline.arrow", "no roofs in its metadata", REMEDY) from cause
    return Opened(directory, Roofline(rows, stages, roofs, about.get("level", "")), accounting, source)


def _accounting(path: Path, told: dict[str, Any]) -> tuple[Accounting, dict[str, str]]:
    try:
        return cattrs.structure(told, Accounting), {str(k): str(v) for k, v in told["source"].items()}
    except (ValueError, TypeError, AttributeError, LookupError, cattrs.BaseValidationError) as cause:
        raise Refused(path, "not the accounting of a join", REMEDY) from cause
