"""Which records of a report are possible: what columns may hold (`dsocr_nvtx.ingest.bounds`), and which times can be.

A record that cannot be (it ends before it began, or its times were not taken; its GPU has no such number) is set apart
by reason and counted, and the rest is used: one of them must neither turn a verdict nor refuse a report. What is no
whole number at all is refused where it is read (`dsocr_nvtx.ingest.source`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from dsocr_nvtx.ingest.bounds import BOUNDS, INCREMENT, extent, payload_bounds
from dsocr_nvtx.ingest.source import NULL, Ints, Mask, Source, whole
from dsocr_nvtx.ingest.trace import SetApart
from dsocr_nvtx.schema.values import values_of

_LONGEST = 1 << 50
"""No two records of a session are so many nanoseconds (13 days) apart."""
_FARTHEST = 1 << 61
"""No time is so many nanoseconds from a session's start, or from 1970; differences of such times still fit 64 bits."""
_WITHIN = 4
"""So many later kernels of its own stream inside a kernel are more than launching ahead can explain."""

NO_TIME = "no times"
BACKWARDS = "ends before it begins"
FAR = "days away from the rest"
OVERLAPPING = "overlaps later kernels of its own stream"


class Records:
    """Reads the records of a report, and notes what it sets apart."""

    def __init__(self, report: Source) -> None:
        self.report = report
        self._found: dict[tuple[str, str], int] = {}

    def set_apart(self) -> tuple[SetApart, ...]:
        """Return what was set apart so far: kinds of records, reasons, numbers."""
        return tuple(SetApart(what, why, count) for (what, why), count in sorted(self._found.items()))

    def read(self, what: str, table: str, columns: Sequence[str]) -> dict[str, Ints]:
        """Return columns of the possible records of a table, which are called ``what``; see `possible`."""
        c = self.report.integers(table, columns)
        return taken(c, self.possible(what, table, c))

    def possible(
        self, what: str, table: str, c: Mapping[str, Ints], *, timed: bool = True, may_be_open: bool = False
    ) -> Mask | None:
        """Return the possible among some records of a table; None stands for all.

        ``timed``: their times are looked at as well, else they only have to be times. ``may_be_open``: an end may be
        missing.
        """
        kept: Mask | None = None
        for why, broken in self._reasons(table, c, timed=timed, may_be_open=may_be_open):
            kept = self._without(what, why, broken, kept)
        if timed and (kept is None or kept.any()):
            kept = self._without(what, FAR, _far(c["start"], c.get("end", c["start"]), kept), kept)
        return kept

    def _reasons(
        self, table: str, c: Mapping[str, Ints], *, timed: bool, may_be_open: bool
    ) -> list[tuple[str, Mask | None]]:
        found: list[tuple[str, Mask | None]] = []
        bounds = BOUNDS.get(table, {})
        for name, values in c.items():
            if name in bounds and len(values) and self.report.has(table, *name.split("*")):
                found.append((f"impossible {name.replace('*', ' x ')}", bounds[name].broken(values)))
        start = c["start"]
        end = c.get("end", start)
        if len(start):
            found.append((NO_TIME, _timeless(start, end, may_be_open, never_zero=timed and "deviceId" in c)))
            if timed:
                backwards = start > end
                found.append((BACKWARDS, backwards & (end != NULL) if backwards.any() else None))
        return found

    def _without(self, what: str, why: str, broken: Mask | None, kept: Mask | None) -> Mask | None:
        if broken is None:
            return kept
        if kept is not None:
            broken = broken & kept  # each is counted once, for the first reason
        if count := int(np.count_nonzero(broken)):
            self._found[what, why] = self._found.get((what, why), 0) + count
            return ~broken if kept is None else kept & ~broken
        return kept

    def possible_payloads(self, payloads: pa.StructArray) -> pa.StructArray:
        """Return payloads of ranges, null those that hold what no hook writes."""
        kept: Mask | None = None
        there = values_of(payloads.is_valid())
        if not there.any():
            return payloads
        for item in payloads.type:
            broken = payload_bounds(item.name).broken(values_of(payloads.field(item.name)))
            kept = self._without("payload", f"impossible {item.name}", None if broken is None else broken & there, kept)
        if kept is None:
            return payloads
        names = [item.name for item in payloads.type]
        fields = [payloads.field(name) for name in names]
        return pa.StructArray.from_arrays(fields, names, mask=pa.array(~(there & kept)))

    def possible_costs(self, costs: pa.Table) -> pa.Table:
        """Return the announced costs without those that hold what no hook says, or that would grow beyond counting."""
        kept: Mask | None = None
        values, increments = whole(costs["values"]), whole(costs["increments"])
        for item in values.type if len(costs) else ():
            broken = payload_bounds(item.name).broken(values_of(values.field(item.name)))
            kept = self._without("announcement", f"impossible {item.name}", broken, kept)
            broken = INCREMENT.broken(values_of(increments.field(item.name)))
            kept = self._without("announcement", f"impossible increment of {item.name}", broken, kept)
        return costs if kept is None else costs.filter(pa.array(kept))

    def not_overlapping(self, what: str, table: str, c: dict[str, Ints], kept: Mask | None) -> Mask | None:
        """Return the operations that do not last over several later ones of their stream; None stands for all.

        Those of a CUDA graph may, as they are all noted under one stream. ``kept`` are the rows of the table that ``c``
        holds.
        """
        if len(c["start"]) <= _WITHIN or not _reaching(c["start"], c["end"]).any():
            return None
        # Streams are numbered per context, which nothing else needs to know.
        more = taken(self.report.integers(table, ("contextId", "greenContextId")), kept)
        return self._without(what, OVERLAPPING, _overlapping({**c, **more}), None)


def taken(c: dict[str, Ints], kept: Mask | None) -> dict[str, Ints]:
    """Return some rows of columns; one of a single value takes no room."""
    if kept is None:
        return c
    count = int(np.count_nonzero(kept))
    return {
        name: np.broadcast_to(values[0], count) if values.strides == (0,) and len(values) else values[kept]
        for name, values in c.items()
    }


def _timeless(start: Ints, end: Ints, may_be_open: bool, *, never_zero: bool) -> Mask | None:
    """Return the records without times, or with none that could be; CUPTI writes 0 and 0 where it took none."""
    (first, begun), (soonest, ended) = extent(start), extent(end)
    low, high = min(first, soonest), max(begun, ended)
    if low > -_FARTHEST and high < _FARTHEST and (low > 0 or not never_zero):
        return None
    open_end = (end == NULL) if may_be_open else np.zeros(len(end), bool)
    ends = (np.abs(np.maximum(end, -_FARTHEST)) < _FARTHEST) | open_end
    timeless = ~((np.abs(np.maximum(start, -_FARTHEST)) < _FARTHEST) & ends)
    if never_zero:
        timeless |= (start == 0) & (end == 0)
    return timeless if timeless.any() else None


def _far(start: Ints, end: Ints, kept: Mask | None) -> Mask | None:
    if not len(start):
        return None
    first, begun = extent(start)
    if max(begun, extent(end)[1]) - first < _LONGEST:
        return None
    mine = slice(None) if kept is None else kept
    starts, ends = start[mine], np.where(end[mine] == NULL, start[mine], end[mine])
    if int(ends.max()) - int(starts.min()) < _LONGEST:
        return None
    middle = int(np.partition(starts, (len(starts) - 1) // 2)[(len(starts) - 1) // 2])
    return (start < middle - _LONGEST) | (end > middle + _LONGEST) | (start > middle + _LONGEST)


def _reaching(start: Ints, end: Ints) -> Mask:
    """Return, in order of start, which operations end after several later ones, of any stream, have begun."""
    if (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")
        start, end = start[order], end[order]
    reaching: Mask = end[:-_WITHIN] > start[_WITHIN:]
    return reaching


_STREAM = ("streamId", "greenContextId", "contextId", "deviceId", "globalPid")


def _overlapping(c: Mapping[str, Ints]) -> Mask:
    """Return which operations last until the next few of their stream have ended."""
    alone = np.flatnonzero(c["graphNodeId"] == NULL)
    order = alone[np.lexsort([c["start"][alone], *(c[name][alone] for name in _STREAM)])]
    first, last = order[:-_WITHIN], order[_WITHIN:]
    alike = c["correlationId"][first] != c["correlationId"][last]
    for name in _STREAM:
        alike &= c[name][first] == c[name][last]
    ends = c["end"][order]
    found = np.zeros(len(c["end"]), bool)
    if len(alike):
        latest = np.max([ends[at : len(ends) - _WITHIN + at] for at in range(1, _WITHIN + 1)], axis=0)
        found[first[alike & (ends[:-_WITHIN] >= latest)]] = True
    return found
