"""What became of every page of a run: a record each, ``pages.arrow``, and statistics per page and per token."""

from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import asdict, define

from dsocr_nvtx.errors import printable_line
from dsocr_nvtx.schema.files import write_table
from dsocr_nvtx.schema.page_records import PAGES
from dsocr_nvtx.schema.ranks import Rank
from dsocr_nvtx.schema.tables import conform


@define(kw_only=True)
class PageRecord:
    """One page. ``status`` is not_run until it is done or has failed; what is not known is None."""

    index: int
    path: str
    status: str = "not_run"
    error: str | None = None
    grid: str | None = None
    tiles: int | None = None
    prompt_tokens: int | None = None
    decoded_tokens: int | None = None
    batch: int | None = None
    batch_pages: int | None = None
    vision_step: int | None = None
    prefill_step: int | None = None
    decode_step: int | None = None
    decode_steps: int | None = None
    load_ns: int | None = None
    vision_ns: int | None = None
    prefill_ns: int | None = None
    decode_ns: int | None = None
    joules: float | None = None

    @property
    def complaint(self) -> str:
        """What to tell the user of a page that failed: one line."""
        error = self.error or ""
        return f"page {self.index} failed: {error if error.startswith(self.path) else f'{self.path}: {error}'}"

    def fail(self, reason: str) -> None:
        """Note that the page failed."""
        self.status, self.error = "failed", reason


def one_line(error: BaseException) -> str:
    """Return what an error says, in one printable line."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return printable_line(text.strip())


def write_pages(directory: Path, records: Sequence[PageRecord], rank: Rank) -> None:
    """Write ``pages.arrow``, in the order of the command line."""
    rows = [asdict(record) for record in sorted(records, key=lambda record: record.index)]
    columns: dict[str, object] = {name: [row[name] for row in rows] for name in PAGES.names if rows and name in rows[0]}
    columns |= {name: [] for name in PAGES.names if name not in columns}
    columns |= {"rank": [rank.rank] * len(rows), "gpu_uuid": [rank.gpu_uuid or None] * len(rows)}
    about = {"rank": str(rank.rank), "world_size": str(rank.world_size), "host": rank.host}
    write_table(conform(columns, PAGES, about), directory / "pages.arrow")


PERCENTILES = (50, 90, 99)


def page_statistics(records: Sequence[PageRecord], seconds: float) -> dict[str, object]:
    """Return how long pages and tokens took, over the pages that are done; ``seconds`` is the time of them all.

    Percentiles are by nearest rank: each is a time that a page really had. A page's time is that of its batch; a
    token's is the decode time of its page by the batch's steps.
    """
    done = [record for record in records if record.status == "done"]
    tokens = sum(record.decoded_tokens or 0 for record in done)
    measures: dict[str, Callable[[PageRecord], int | None]] = {
        "load_ns": lambda r: r.load_ns,
        "vision_ns": lambda r: r.vision_ns,
        "prefill_ns": lambda r: r.prefill_ns,
        "decode_ns": lambda r: r.decode_ns,
        "page_ns": _page_ns,
        "tiles": lambda r: r.tiles,
        "prompt_tokens": lambda r: r.prompt_tokens,
        "decoded_tokens": lambda r: r.decoded_tokens,
    }
    return {
        "pages": len(done),
        "failed": sum(record.status == "failed" for record in records),
        "not_run": sum(record.status == "not_run" for record in records),
        "seconds": seconds,
        "decoded_tokens": tokens,
        "pages_per_second": len(done) / seconds if seconds else None,
        "tokens_per_second": tokens / seconds if seconds else None,
        "joules": _total([record.joules for record in done]),
        "per_page": {name: _spread([measure(record) for record in done]) for name, measure in measures.items()},
        "per_token": {"decode_ns": _spread([_token_ns(record) for record in done])},
    }


def _total(values: Sequence[float | None]) -> float | None:
    """Return the sum of values that are all known, else None."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _token_ns(record: PageRecord) -> int | None:
    return round(record.decode_ns / record.decode_steps) if record.decode_ns and record.decode_steps else None


def _page_ns(record: PageRecord) -> int | None:
    parts = (record.vision_ns, record.prefill_ns, record.decode_ns)
    return sum(part or 0 for part in parts) if record.vision_ns is not None else None


def _spread(values: Sequence[int | None]) -> dict[str, float] | None:
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    nearest = {f"p{p}": ordered[-(-p * len(ordered) // 100) - 1] for p in PERCENTILES}
    return {"mean": sum(ordered) / len(ordered), "min": ordered[0], **nearest, "max": ordered[-1]}
