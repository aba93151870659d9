"""What a served run comes to: its pages' time, its batches by stage and over time, and whose the GPUs' idle time is."""

from collections.abc import Mapping

import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.request_time import OUTSIDE
from dsocr_nvtx.join.served_marks import ServedWork
from dsocr_nvtx.roofline.batches import Batch, Composition, batches, composition, counted
from dsocr_nvtx.roofline.pages import PageTime, page_time
from dsocr_nvtx.schema.records import is_host


@frozen
class IdleShares:
    """The idle time of GPUs while requests were there, in ns: in host work by name, in ranges of the model, in none."""

    host: int
    model: int
    outside: int

    @classmethod
    def of(cls, idle_ns: Mapping[str, int]) -> "IdleShares":
        """Divide what is told of a served run by owner."""
        host, outside = sum(ns for owner, ns in idle_ns.items() if is_host(owner)), idle_ns.get(OUTSIDE, 0)
        return cls(host, sum(idle_ns.values()) - host - outside, outside)

    @property
    def total(self) -> int:
        """All of it."""
        return self.host + self.model + self.outside


@frozen(kw_only=True, eq=False)
class ServedReview:
    """Where pages' time went, None where no page tells; the batches of each stage, and over time; idle time."""

    idle: IdleShares
    pages: PageTime | None
    batches: tuple[Batch, ...]
    composition: Composition | None

    @property
    def padding(self) -> float | None:
        """The share of all rows that only pad, None where no step tells."""
        run = sum(batch.padded_rows for batch in self.batches)
        return sum(batch.padding_rows for batch in self.batches) / run if run else None


def served_review(tables: Mapping[str, pa.Table], work: ServedWork) -> ServedReview | None:
    """Return the review of a join's tables of a served run, by the names of their files; None of any other run.

    ``work`` is what the join's accounting tells of it.
    """
    if not tables:
        return None
    requests, steps = tables.get("requests"), tables.get("served_steps")
    steps = counted(steps) if steps is not None else None
    return ServedReview(
        idle=IdleShares.of(work.idle_ns),
        pages=page_time(requests) if requests is not None else None,
        batches=tuple(batches(steps)) if steps is not None else (),
        composition=composition(steps) if steps is not None else None,
    )
