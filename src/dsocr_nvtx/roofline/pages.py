"""Where the time of a served page goes, from its arrival to its end: parts that add up to it, to the nanosecond.

Before its first step a page is ``preparing`` until it is preprocessed, where that is told, then ``waiting``. From then
on its GPU is busy with the page's ``own`` steps, by stage; busy with ``others``; or ``idle``, by owner. A step that
many pages share is each one's own.
"""

from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import Any

import pyarrow as pa
from attrs import frozen

Row = Mapping[str, Any]
GROUPS = ("preparing", "waiting", "own", "others", "idle")


@frozen
class PagePart:
    """A part of pages' time: its group, and of ``own`` the stage, of ``idle`` the owner."""

    group: str
    what: str
    ns: int


@frozen(kw_only=True)
class PageTime:
    """The time of all pages of which arrival and end are told, ``untold`` others left out; medians are over pages.

    ``gpu_idle`` is how long the GPU was idle from arrival to end, by owner; like ``latency_ns`` summed over pages.
    """

    pages: int
    untold: int
    latency_ns: int
    parts: tuple[PagePart, ...]
    gpu_idle: tuple[PagePart, ...]
    median_latency_ns: float
    median_waiting_ns: float | None
    median_first_token_ns: float | None
    tokens: int
    tokens_per_s: float | None

    def group(self, name: str) -> int:
        """Return how long all parts of a group are."""
        return sum(part.ns for part in self.parts if part.group == name)


def page_time(requests: pa.Table) -> PageTime | None:
    """Return where the time of pages went, of a REQUESTS table; None where of no page all is told."""
    rows = requests.to_pylist()
    told = [row for row in rows if row["busy_own_ns"] is not None]
    if not told:
        return None
    tokens = sum(row["tokens"] or 0 for row in told)
    ns = max(row["finished_ns"] for row in told) - min(row["arrived_ns"] for row in told)
    return PageTime(
        pages=len(told),
        untold=len(rows) - len(told),
        latency_ns=sum(row["latency_ns"] for row in told),
        parts=_together(part for row in told for part in page_parts(row)),
        gpu_idle=_together(part for row in told for part in _idle(row, "idle")),
        median_latency_ns=median(row["latency_ns"] for row in told),
        median_waiting_ns=_median(row["waiting_ns"] for row in told),
        median_first_token_ns=_median(_since_arrival(row, "first_token_ns") for row in told),
        tokens=tokens,
        tokens_per_s=tokens / ns * 1e9 if ns else None,
    )


def page_parts(row: Row) -> Iterator[PagePart]:
    """Yield the parts of one page's latency, which add up to it."""
    before = row["latency_ns"] if row["waiting_ns"] is None else row["waiting_ns"]
    preparing = min(max(_since_arrival(row, "preprocessed_ns") or 0, 0), before)
    yield PagePart("preparing", "", preparing)
    yield PagePart("waiting", "", before - preparing)
    yield from (PagePart("own", one["stage"], one["ns"]) for one in row["busy_own"])
    if row["waiting_ns"] is not None:
        yield PagePart("others", "", row["later_busy_others_ns"])
        yield from _idle(row, "later_idle")


def _idle(row: Row, name: str) -> Iterator[PagePart]:
    return (PagePart("idle", one["owner"], one["ns"]) for one in row[name])


def _since_arrival(row: Row, name: str) -> int | None:
    return None if row[name] is None else row[name] - row["arrived_ns"]


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _together(parts: Iterable[PagePart]) -> tuple[PagePart, ...]:
    """Return the sums of equal parts that are any, by group, the longest first."""
    total: dict[tuple[str, str], int] = {}
    for part in parts:
        total[part.group, part.what] = total.get((part.group, part.what), 0) + part.ns
    found = [PagePart(*key, ns) for key, ns in total.items() if ns]
    return tuple(sorted(found, key=lambda part: (GROUPS.index(part.group), -part.ns, part.what)))
