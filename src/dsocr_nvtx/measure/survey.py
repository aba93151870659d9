"""The survey: every subject in a short burst on a rested device, the best of each quantity also for seconds on end.

Works through a `Timer` and readings of a gauge, so that its arithmetic is the same without a GPU.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from attrs import asdict, evolve, field, frozen

from dsocr_nvtx.measure.gauge import Reading
from dsocr_nvtx.measure.sampling import held_between
from dsocr_nvtx.measure.subjects import Series, Subject, Timer, centre
from dsocr_nvtx.schema.gauges import CEILINGS

BURST, SUSTAINED = "burst", "sustained"


@frozen(kw_only=True)
class Plan:
    """How long to measure: seconds of a burst, of the pause before it, and of a sustained run."""

    burst_s: float = 0.1
    pause_s: float = 0.15
    sustained_s: float = 2.0

    @classmethod
    def of(cls, *, quick: bool) -> "Plan":
        """Return the plan of a quick survey or of a whole one."""
        return cls(burst_s=0.06, pause_s=0.05, sustained_s=0.3) if quick else cls()


@frozen(kw_only=True)
class Measurement:
    """One row: a subject in one regime, its rate, and when it ran."""

    subject: Subject
    regime: str
    median: float
    spread: float
    series: Series
    is_roof: bool = False


@frozen(kw_only=True)
class Survey:
    """What was measured, and what could not be, with the reason."""

    rows: tuple[Measurement, ...]
    missing: dict[str, str] = field(factory=dict)


def survey(
    subjects: Iterable[Subject], timer: Timer, plan: Plan, progress: Callable[[str], None] = lambda _text: None
) -> Survey:
    """Measure all subjects in bursts, then the fastest of every (quantity, element type) sustained.

    A subject that fails is left out and named in ``missing``; the survey goes on. The fastest row of each quantity and
    element type, of either regime, is its roof.
    """
    rows: list[Measurement] = []
    missing: dict[str, str] = {}
    for subject in subjects:
        progress(_name(subject))
        _add(rows, missing, subject, timer, plan, BURST)
    for row in best_rows(rows):
        progress(f"{_name(row.subject)}, sustained")
        _add(rows, missing, row.subject, timer, plan, SUSTAINED)
    roofs = {id(row) for row in best_rows(rows)}
    return Survey(rows=tuple(evolve(row, is_roof=id(row) in roofs) for row in rows), missing=missing)


def best_rows(rows: Sequence[Measurement]) -> list[Measurement]:
    """Return the row of the highest rate for every (quantity, element type), in the order they first appear."""
    best: dict[tuple[str, str | None], Measurement] = {}
    for row in rows:
        key = (row.subject.quantity, row.subject.dtype)
        if key not in best or row.median > best[key].median:
            best[key] = row
    return list(best.values())


def _name(subject: Subject) -> str:
    words = [
        subject.quantity,
        subject.dtype,
        subject.shape or (f"{subject.bytes / 1e6:,.0f} MB" if subject.bytes else ""),
    ]
    return " ".join(word for word in words if word)


def _add(
    rows: list[Measurement], missing: dict[str, str], subject: Subject, timer: Timer, plan: Plan, regime: str
) -> None:
    try:
        rows.append(_measure(subject, timer, plan, regime))
    except Exception as error:  # noqa: BLE001 - a library that lacks one product must not end the survey
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        missing[f"{_name(subject)}, {subject.kernel}"] = f"{type(error).__name__}: {reason}"[:200]


def _measure(subject: Subject, timer: Timer, plan: Plan, regime: str) -> Measurement:
    with subject.make() as call:
        about = timer.warm_up(call)
        timer.pause(plan.pause_s)
        if regime == BURST:
            series = timer.time(call, about, plan.burst_s)
        else:
            series = timer.time(call, about, plan.sustained_s).later_half()
    rate, spread = series.rates(subject.work)
    return Measurement(subject=subject, regime=regime, median=rate, spread=spread, series=series)


def launch_rows(found: Iterable[tuple[str, Series]]) -> list[Measurement]:
    """Return rows of times of launching: ns per kernel, each the roof of its own quantity, and the host's rate."""
    rows = []
    for quantity, series in found:
        rows.append(_launch_row(quantity, "ns", series, *centre(series.ns)))
        if quantity == "host_launch":
            rows.append(_launch_row("host_launch_rate", "1/s", series, *series.rates(1)))
    return rows


def _launch_row(quantity: str, unit: str, series: Series, median: float, spread: float) -> Measurement:
    subject = Subject(quantity=quantity, kernel="Tensor.add_ of one float32", work=1, unit=unit, make=_nothing)
    return Measurement(subject=subject, regime=BURST, median=median, spread=spread, series=series, is_roof=True)


def _nothing() -> NoReturn:
    raise AssertionError("a launch row is measured already")


def ceilings_columns(rows: Sequence[Measurement], readings: Sequence[Reading]) -> dict[str, object]:
    """Return the columns of a CEILINGS table: the rows, each with what the gauges read while it ran."""
    held = [asdict(held_between(readings, row.series.start_ns, row.series.end_ns)) for row in rows]
    about = ("quantity", "dtype", "shape", "bytes", "kernel", "unit")
    columns: dict[str, object] = {name: [getattr(row.subject, name) for row in rows] for name in about}
    columns |= {name: [getattr(row, name) for row in rows] for name in ("regime", "median", "spread", "is_roof")}
    columns["windows"] = [len(row.series.ns) for row in rows]
    columns["seconds"] = [(row.series.end_ns - row.series.start_ns) / 1e9 for row in rows]
    columns |= {name: [values[name] for values in held] for name in (held[0] if held else ())}
    return {name: columns[name] for name in CEILINGS.names} if rows else {name: [] for name in CEILINGS.names}
