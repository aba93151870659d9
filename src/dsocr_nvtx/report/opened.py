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
from dsocr_nvtx.roofline.review import ServedReview, served_review
from dsocr_nvtx.schema.checking import check_columns
from dsocr_nvtx.schema.directories import REMEDY, SERVED_TABLES
from dsocr_nvtx.schema.hardware import Ceilings
from dsocr_nvtx.schema.joins import ACCOUNTING, Part, open_directory
from dsocr_nvtx.schema.tables import MEASURED


@frozen(eq=False)
class Opened:
    """What `join` wrote of one report: the roofline and its accounting; further tables are read when asked for."""

    part: Part
    roofline: Roofline
    accounting: Accounting
    source: dict[str, str]

    @property
    def kernels(self) -> pa.Table:
        """Every GPU operation."""
        return self.part.read("kernels")

    @property
    def ranges(self) -> pa.Table:
        """Every hooked call; costs that version 1 wrote are made exclusive."""
        path = self.part.file("ranges")
        table = exclusive_table(self.part.read("ranges", SHARED_COLUMNS), str(path))
        check_columns(table, MEASURED, path, REMEDY)
        return table

    @property
    def kernels_summary(self) -> list[dict[str, object]]:
        """Every kernel by stage and name, the longest total first; none where an earlier version joined."""
        table = self.beside("kernels_summary")
        return table.to_pylist() if table is not None else []

    @property
    def served_review(self) -> ServedReview | None:
        """What a served run comes to; None of any other."""
        tables = {name: self.beside(name) for name in SERVED_TABLES}
        served = {name: table for name, table in tables.items() if table is not None}
        return served_review(served, self.accounting.served)

    def beside(self, name: str) -> pa.Table | None:
        """Return a further table of the join, None where it has none of that name."""
        return self.part.read(name) if self.part.has(name) else None


def open_joined(folder: Path) -> Opened:
    """Return one report's join; refuse what is none, or was written by a version whose tables lack a column."""
    found = open_directory(folder)
    if found.is_fleet:
        first = folder / found.parts[0].name
        raise Refused(folder, "a data set of many reports (a fleet)", f"name one of them: {first}")
    return open_part(found.parts[0])


def open_part(part: Part) -> Opened:
    """Return one report's join, as `open_joined` does."""
    accounting, source = _accounting(part.file(ACCOUNTING), part.told)
    rows, stages = part.read("roofline"), part.read("stages")
    about = {key.decode(): value.decode() for key, value in rows.schema.metadata.items()}
    try:
        roofs = cattrs.structure(json.loads(about["ceilings"]), Ceilings)
    except (KeyError, ValueError, cattrs.BaseValidationError) as cause:
        raise Refused(part.file("roofline"), "no roofs in its metadata", REMEDY) from cause
    return Opened(part, Roofline(rows, stages, roofs, about.get("level", "")), accounting, source)


def _accounting(path: Path, told: dict[str, Any]) -> tuple[Accounting, dict[str, str]]:
    try:
        return cattrs.structure(told, Accounting), {str(k): str(v) for k, v in told["source"].items()}
    except (ValueError, TypeError, AttributeError, LookupError, cattrs.BaseValidationError) as cause:
        raise Refused(path, "not the accounting of a join", REMEDY) from cause
