"""What a served run comes to: its pages' time, its batches by stage and over time, and whose the GPUs' idle time is."""

from collections.abc import Mapping

import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.join.columns import numbers, rows_with
from dsocr_nvtx.roofline.batches import Batch, Composition, batches, composition, counted
from dsocr_nvtx.roofline.pages import PageTime, page_time
from dsocr_nvtx.schema.records import LayerKind


@frozen
class IdleShares:
    """All idle time of the GPUs, in ns: that of host work by name, that of ranges of the model, and of no range."""

    host: int
    model: int
    outside: int

    @classmethod
    def of(cls, rows: pa.Table, accounting: Accounting) -> "IdleShares":
        """Divide it by a ROOFLINE table, whose rows have all that a range owns."""
        idle, is_host = numbers(rows, "idle_owned_ns"), rows_with(rows, "kind", LayerKind.HOST)
        outside = sum(device.idle_ns.get("none", 0) for device in accounting.devices)
        return cls(int(idle[is_host].sum()), int(idle[~is_host].sum()), outside)

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


def served_review(tables: Mapping[str, pa.Table], rows: pa.Table, accounting: Accounting) -> ServedReview | None:
    """Return the review of a join's tables of a served run, by the names of their files; None of any other run.

    ``rows`` and ``accounting`` are the join's ROOFLINE table and what went where.
    """
    if not tables:
        return None
    requests, steps = tables.get("requests"), tables.get("served_steps")
    steps = counted(steps) if steps is not None else None
    return ServedReview(
        idle=IdleShares.of(rows, accounting),
        pages=page_time(requests) if requests is not None else None,
        batches=tuple(batches(steps)) if steps is not None else (),
        composition=composition(steps) if steps is not None else None,
    )
