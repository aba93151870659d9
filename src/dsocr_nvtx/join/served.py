"""A serving engine's run: its marks and a join's ranges in, its tables out."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from attrs import field, frozen

from dsocr_nvtx.join.columns import Rows
from dsocr_nvtx.join.instants import Instants
from dsocr_nvtx.join.requests import requests_table
from dsocr_nvtx.join.served_marks import ServedMarks, ServedWork
from dsocr_nvtx.join.served_steps import Steps, served_steps


@frozen(kw_only=True, eq=False)
class Served:
    """SERVED_STEPS and REQUESTS by the names of their files, where there are any, and how marks fit the ranges."""

    tables: Mapping[str, pa.Table] = field(factory=dict)
    work: ServedWork = field(factory=ServedWork)


def served(marks: ServedMarks, ranges: pa.Table, order: Rows, instants: Instants | None, where: str) -> Served:
    """Return what is told of a served run; nothing of any other, of which no instants need be kept.

    ``order`` is what put MEASURED, ``ranges``, in order of time from that of the forest, whose positions the owners of
    ``instants`` are. ``where`` names the report in refusals.
    """
    if not marks or instants is None:
        return Served()
    steps = Steps.of(marks, ranges, where)
    table, work = served_steps(marks, steps, ranges)
    rows = np.arange(len(ranges)) if isinstance(order, slice) else np.argsort(order)
    placed = instants.placed(rows[: len(instants.home)], len(ranges))
    requests = requests_table(marks, steps, ranges, placed)
    tables = {"served_steps": table, "requests": requests}
    return Served(tables={name: one for name, one in tables.items() if len(one)}, work=work)
