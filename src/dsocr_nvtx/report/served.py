"""The review of a served run in words: what a page waits for, its time budget, and how full the steps were."""

from collections.abc import Sequence

from attrs import asdict, frozen

from dsocr_nvtx.report import words
from dsocr_nvtx.report.columns import Column, count, decimal, nanoseconds, percentage
from dsocr_nvtx.roofline.batches import Batch, Composition
from dsocr_nvtx.roofline.pages import PagePart, PageTime
from dsocr_nvtx.roofline.review import ServedReview
from dsocr_nvtx.schema.records import HOST_PREFIX, is_host

_HOST_WORDS = {
    "preprocessing": "image preprocessing",
    "preparing": "preparing the batch",
    "engine": "the engine's own loop",
    "encoding": "the host's side of the encoder",
    "logits_processors": "logits processors",
}


@frozen
class PageLine:
    """A part of a page's time: exact over all pages, the mean of a page, its share in percent, and its colour."""

    key: str
    name: str
    colour: str
    ns: int
    mean_ns: float
    percent: float


@frozen
class CompositionBar:
    """An interval of the run: sequences that decode, and all, as heights from the ground in percent of the most."""

    label: str
    decode: float
    every: float


@frozen(kw_only=True)
class ServedSection:
    """What the page shows of a served run: sentences, a page's time, batches by stage, and sequences over time."""

    lines: tuple[str, ...]
    pages: tuple[PageLine, ...]
    batches: tuple[dict[str, object], ...]
    bars: tuple[CompositionBar, ...]
    tallest: float
    span: str


def owner_words(owner: str) -> str:
    """Return what idle time is told of, in words: host work by what it is."""
    if not is_host(owner):
        return {"outside": "nothing that has a range"}.get(owner, f"ranges of {owner}")
    what = owner.removeprefix(HOST_PREFIX)
    return f"host: {_HOST_WORDS.get(what, what.replace('_', ' '))}"


def part_words(part: PagePart) -> str:
    """Return the name of a part of a page's time."""
    return {
        "preparing": "being preprocessed on the host",
        "waiting": "waiting for its first step",
        "own": f"GPU busy with its {part.what} steps",
        "others": "GPU busy with others",
        "idle": f"GPU idle, {owner_words(part.what)}",
    }[part.group]


def page_lines(pages: PageTime) -> list[PageLine]:
    """Return the time budget of a page, from its arrival down; the parts add up to all pages' latencies."""
    return [
        PageLine(_key(part), part_words(part), _colour(part), part.ns, part.ns / pages.pages, _percent(part, pages))
        for part in pages.parts
    ]


def _key(part: PagePart) -> str:
    return f"{part.group}.{part.what}" if part.what else part.group


def _percent(part: PagePart, pages: PageTime) -> float:
    return round(100 * part.ns / pages.latency_ns, 3) if pages.latency_ns else 0.0


def _colour(part: PagePart) -> str:
    """Return the part of the time budget whose colour a part of a page's time has."""
    if part.group == "idle":
        return "idle_launch" if is_host(part.what) else "idle_none" if part.what == "outside" else "idle_sync"
    if part.group == "own":
        return "inefficiency" if part.what == "vision" else "roofline"
    return {"preparing": "idle_host", "waiting": "idle_queued", "others": "tax"}[part.group]


def page_verdict(pages: PageTime) -> str:
    """Return one sentence: what takes most of a page's time; and, where the GPU idles then, for whom most."""
    whole = max(pages.latency_ns, 1)
    groups = {name: pages.group(name) for name in ("preparing", "waiting", "own", "others", "idle")}
    most = max(groups, key=lambda name: groups[name])
    share = f"{groups[most] / whole:.0%}"
    first = next((part for part in pages.parts if part.group == most), None)
    detail = f", most for {owner_words(first.what)}" if most == "idle" and first is not None else ""
    what = {
        "preparing": f"a page waits {share} of its time for its own preprocessing on the host",
        "waiting": f"a page waits {share} of its time for its first step",
        "own": f"a page's own steps keep the GPU busy {share} of its time, most in {first.what if first else ''} steps",
        "others": f"a page waits {share} of its time while the GPU works for others",
        "idle": f"a page waits {share} of its time with the GPU idle between its steps{detail}",
    }[most]
    return f"{what}; {_median(pages)}{_idle(pages)}"


def _median(pages: PageTime) -> str:
    first = (
        f", {words.milliseconds(pages.median_first_token_ns)} ms to its first token"
        if pages.median_first_token_ns is not None
        else ""
    )
    what = f"{pages.pages:,} pages, the middle one" if pages.pages > 1 else "one page,"
    return f"{what} {words.milliseconds(pages.median_latency_ns)} ms from arrival to end{first}"


def _idle(pages: PageTime) -> str:
    total = sum(part.ns for part in pages.gpu_idle)
    if not total or not pages.latency_ns:
        return ""
    first = pages.gpu_idle[0]
    most = f"{first.ns / total:.0%} of it for {owner_words(first.what)}"
    return f"; the GPU is idle {total / pages.latency_ns:.0%} of a page's time, {most}"


def served_lines(review: ServedReview) -> list[str]:
    """Return what is to be said first of a served run: the page's verdict, how many tokens, and what pads."""
    lines = []
    if review.pages is not None:
        lines.append(page_verdict(review.pages))
        if review.pages.tokens_per_s:
            lines.append(f"{review.pages.tokens:,} tokens, {review.pages.tokens_per_s:,.1f} a second over all pages")
        if review.pages.untold:
            lines.append(
                f"{review.pages.untold:,} more pages: when they arrived and ended is not told, so they are left out"
            )
    if total := review.idle.total:
        named, model, outside = (
            f"{ns / total:.0%}" for ns in (review.idle.host, review.idle.model, review.idle.outside)
        )
        what = f"{named} in host work by name, {model} in ranges of the model, {outside} outside every range"
        lines.append(f"of the GPU's idle time while pages were there, {words.milliseconds(total)} ms: {what}")
    if review.padding is not None:
        lines.append(f"{review.padding:.1%} of the rows that forwards are run with only pad the batch")
    return lines


BATCH_COLUMNS = (
    Column(title="stage", text=lambda row: str(row["stage"]), left=True),
    count("steps", "steps"),
    nanoseconds("a step", "step_ns"),
    decimal("in prefill", "prefill", 2),
    decimal("in decode", "decode", 2),
    count("most", "most"),
    decimal("rows", "rows", 1),
    percentage("padding", "waste"),
)
PAGE_COLUMNS = (
    Column(title="part", text=lambda row: str(row["name"]), left=True),
    nanoseconds("a page", "mean_ns"),
    Column(title="of its time", text=lambda row: f"{words.number(row['percent']):.1f}%"),
)


def batch_rows(batches: Sequence[Batch]) -> list[dict[str, object]]:
    """Return the batches of each stage as rows: means of sequences and rows, and the share that pads."""
    return [{**asdict(batch), "waste": batch.waste} for batch in batches]


def page_rows(pages: PageTime) -> list[dict[str, object]]:
    """Return the time budget of a page as rows."""
    return [asdict(line) for line in page_lines(pages)]


def composition_bars(found: Composition) -> tuple[list[CompositionBar], float]:
    """Return the bars of sequences over time, and how many the tallest stands for."""
    every = found.prefill + found.decode
    most = max(float(every.max()), 1e-9)
    bars = [
        CompositionBar(
            f"{words.milliseconds(at * found.interval_ns)} ms: {decode:.1f} in decode, {prefill:.1f} in prefill",
            round(100 * decode / most, 2),
            round(100 * (decode + prefill) / most, 2),
        )
        for at, (prefill, decode) in enumerate(zip(found.prefill.tolist(), found.decode.tolist(), strict=True))
    ]
    return bars, most


def section(review: ServedReview) -> ServedSection:
    """Return what the page shows of a served run."""
    found = review.composition
    bars, tallest = composition_bars(found) if found is not None else ([], 0.0)
    return ServedSection(
        lines=tuple(served_lines(review)),
        pages=tuple(page_lines(review.pages)) if review.pages is not None else (),
        batches=tuple(batch_rows(review.batches)),
        bars=tuple(bars),
        tallest=tallest,
        span=words.milliseconds(found.interval_ns * len(bars)) if found is not None else "",
    )


def as_plain(review: ServedReview) -> dict[str, object]:
    """Return a served run's review as plain data: whole nanoseconds, sums over pages, batches by stage."""
    pages = review.pages
    told = None
    if pages is not None:
        told = {
            "verdict": page_verdict(pages),
            **{key: value for key, value in asdict(pages).items() if key not in ("parts", "gpu_idle")},
            "parts": {line.key: line.ns for line in page_lines(pages)},
            "gpu_idle": {part.what: part.ns for part in pages.gpu_idle},
        }
    return {
        "pages": told,
        "batches": batch_rows(review.batches),
        "padding": review.padding,
        "idle": asdict(review.idle),
    }
