"""The queue of a run's pages: read one after the other, handed out in batches whose pages cut into equal tiles."""

import time
from collections.abc import Callable, Iterator, Sequence

from attrs import frozen

from dsocr_nvtx.analytic.page import NO_TILES, Grid
from dsocr_nvtx.run.page_records import PageRecord, one_line
from dsocr_nvtx.run.pages import Page, load_page
from dsocr_nvtx.run.views import grid_of


@frozen
class Queued:
    """A page that was read, and its record."""

    record: PageRecord
    page: Page


def batches(
    records: Sequence[PageRecord],
    size: int,
    mode: str,
    tiles: Grid | None,
    failed: Callable[[PageRecord], None],
    load: Callable[[str], Page] = load_page,
) -> Iterator[tuple[Queued, ...]]:
    """Yield batches of ``size`` pages in the order in which they fill up, smaller ones last.

    No more pages are held than one batch of each grid. A page that cannot be read is noted in its record, ``failed``
    hears of it, and the rest goes on.
    """
    waiting: dict[Grid, list[Queued]] = {}
    for record in records:
        begun = time.perf_counter_ns()
        try:
            page = load(record.path)
            grid = grid_of(mode, page.image, tiles)
        except Exception as error:  # noqa: BLE001 - whatever a file does to its reader costs that page alone
            record.fail(one_line(error))
            failed(record)
            continue
        record.load_ns = time.perf_counter_ns() - begun
        record.grid, record.tiles = f"{grid[0]}x{grid[1]}", 0 if grid == NO_TILES else grid[0] * grid[1]
        waiting.setdefault(grid, []).append(Queued(record, page))
        if len(waiting[grid]) == size:
            yield tuple(waiting.pop(grid))
    for rest in list(waiting.values()):
        yield tuple(rest)
