"""Throttling: which rows ran while something held the GPU's clocks down, by the run's own samples."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import evolve

from dsocr_nvtx.join.columns import Ints, numbers
from dsocr_nvtx.roofline.evidence import ROW_KEYS, rows_of
from dsocr_nvtx.roofline.points import Roofline

Flags = npt.NDArray[np.bool_]


def throttled(found: Roofline, ranges: pa.Table, recorded: pa.Table, power: pa.Table) -> Roofline:
    """Return the roofline with ``throttle`` filled: the reasons sampled while the calls of a row ran, joined by +.

    ``ranges`` is MEASURED, ``recorded`` the RANGES and ``power`` the POWER table of the same run. A sample's reasons
    hold until the next one. Times are the host's: the device may run a call a little later. Rows with a call that was
    not sampled throughout keep null, unless a reason was met.
    """
    times = numbers(power, "time_ns")
    if not len(times):
        return found
    event = numbers(recorded, "event_id")
    order = np.argsort(event)
    at = np.minimum(np.searchsorted(event[order], numbers(ranges, "event_id")), len(event) - 1)
    start, end = (numbers(recorded, name)[order][at] for name in ("host_start_ns", "host_end_ns"))
    known = (event[order][at] == numbers(ranges, "event_id")) & (start >= times[0]) & (end <= times[-1])
    first = np.maximum(np.searchsorted(times, start, "right") - 1, 0)
    last = np.searchsorted(times, end, "right")
    met = {reason: known & (total[last] > total[first]) for reason, total in _totals(power["throttle"].to_pylist())}
    return evolve(
        found,
        rows=_flagged(found.rows, rows_of(found.rows, ranges), known, met),
        stages=_flagged(found.stages, rows_of(found.stages, ranges, ROW_KEYS[:3]), known, met),
    )


def _totals(samples: Sequence[str | None]) -> list[tuple[str, Ints]]:
    """Return, per reason, how many samples before each position had it."""
    reasons = sorted({reason for sample in samples for reason in (sample or "").split("+") if reason})
    return [
        (reason, np.cumsum([0, *(reason in (sample or "").split("+") for sample in samples)])) for reason in reasons
    ]


def _flagged(table: pa.Table, row: Ints, known: Flags, met: Mapping[str, Flags]) -> pa.Table:
    """Return the table with the reasons met by the calls of each row; ``row`` is that of each call, or -1."""
    mine = row >= 0
    sampled = np.bincount(row[mine], minlength=len(table)) > 0
    sampled &= np.bincount(row[mine & ~known], minlength=len(table)) == 0
    reasons: list[list[str]] = [[] for _ in range(len(table))]
    for reason, which in met.items():
        for one in np.unique(row[mine & which]):
            reasons[one].append(reason)
    values = [
        "+".join(found) if found or all_known else None for found, all_known in zip(reasons, sampled, strict=True)
    ]
    at = table.schema.get_field_index("throttle")
    field = table.schema.field(at)
    return table.set_column(at, field, pa.array(values, pa.string()).dictionary_encode().cast(field.type))
