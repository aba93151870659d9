"""A serving engine's run: its marks and a join's ranges in, its tables out."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from attrs import evolve, field, frozen

from dsocr_nvtx.join.columns import Rows
from dsocr_nvtx.join.instants import Instants
from dsocr_nvtx.join.request_time import DeviceTimes, Told, longest_first, told_of
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
    work = evolve(work, idle_ns=_idle(tables, placed, told_of(ranges, steps.inside)))
    return Served(tables={name: one for name, one in tables.items() if len(one)}, work=work)


def _idle(tables: Mapping[str, pa.Table], instants: Instants, told: Told) -> dict[str, int]:
    """Return the idle time of all GPUs by owner, from the first arrival or step to the last end of one."""
    edges = (
        ("served_steps", "start_ns"),
        ("served_steps", "end_ns"),
        ("requests", "arrived_ns"),
        ("requests", "finished_ns"),
    )
    times = [time for table, name in edges for time in tables[table][name].to_pylist() if time is not None]
    total: dict[str, int] = {}
    for device in instants.devices if times else ():
        for owner, ns in DeviceTimes.of(device, told).between(min(times), max(times), []).idle.items():
            total[owner] = total.get(owner, 0) + ns
    return longest_first(total)
