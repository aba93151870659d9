"""Throttling: which rows ran while something held the GPU's clocks down, by the run's own samples."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from attrs import evolve

from dsocr_nvtx.join.columns import Ints, numbers
from dsocr_nvtx.roofline.points import Roofline

ROW_KEYS = ("pid", "device", "stage", "module", "kind", "layer")
"""What tells the rows of a ROOFLINE table apart; the first three tell those of a STAGES table."""


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
    keys = list(zip(*(ranges[name].to_pylist() for name in ROW_KEYS), strict=True))
    return evolve(
        found,
        rows=_flagged(found.rows, keys, known, met, len(ROW_KEYS)),
        stages=_flagged(found.stages, keys, known, met, 3),
    )


def _totals(samples: Sequence[str | None]) -> list[tuple[str, Ints]]:
    """Return, per reason, how many samples before each position had it."""
    reasons = sorted({reason for sample in samples for reason in (sample or "").split("+") if reason})
    return [
        (reason, np.cumsum([0, *(reason in (sample or "").split("+") for sample in samples)])) for reason in reasons
    ]


def _flagged(
    table: pa.Table, keys: Sequence[tuple[object, ...]], known: np.ndarray, met: dict[str, np.ndarray], depth: int
) -> pa.Table:
    reasons: dict[tuple[object, ...], set[str]] = {}
    unsampled = set()
    for row, key in enumerate(keys):
        found = reasons.setdefault(key[:depth], set())
        found.update(reason for reason, which in met.items() if which[row])
        if not known[row]:
            unsampled.add(key[:depth])
    values = []
    for key in zip(*(table[name].to_pylist() for name in ROW_KEYS[:depth]), strict=True):
        seen = "+".join(sorted(reasons.get(key, ())))
        values.append(None if not seen and (key in unsampled or key not in reasons) else seen)
    at = table.schema.get_field_index("throttle")
    field = table.schema.field(at)
    return table.set_column(at, field, pa.array(values, pa.string()).dictionary_encode().cast(field.type))
