"""What a served run comes to: its pages' time, its batches by stage and over time."""

from collections.abc import Mapping

import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.roofline.batches import Batch, Composition, batches, composition, counted
from dsocr_nvtx.roofline.pages import PageTime, page_time


@frozen(kw_only=True, eq=False)
class ServedReview:
    """Where pages' time went, None where no page tells; the batches of each stage, and over time."""

    pages: PageTime | None
    batches: tuple[Batch, ...]
    composition: Composition | None

    @property
    def padding(self) -> float | None:
        """The share of all rows that only pad, None where no step tells."""
        run = sum(batch.padded_rows for batch in self.batches)
        return sum(batch.padding_rows for batch in self.batches) / run if run else None


def served_review(tables: Mapping[str, pa.Table]) -> ServedReview | None:
    """Return the review of a join's tables of a served run, by the names of their files; None of any other run."""
    if not tables:
        return None
    requests, steps = tables.get("requests"), tables.get("served_steps")
    steps = counted(steps) if steps is not None else None
    return ServedReview(
        pages=page_time(requests) if requests is not None else None,
        batches=tuple(batches(steps)) if steps is not None else (),
        composition=composition(steps) if steps is not None else None,
    )
