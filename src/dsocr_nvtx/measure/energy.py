"""Energy per stage from NVML's counter, and what the counter cannot resolve.

The counter moves in steps, some tens of milliseconds of power each. A span's energy is what the counter gained between
its ends, known to one step at either end; spans add in quadrature. Below `LEAST_SECONDS` in all, or where the steps
are more than `LARGEST_SHARE` of the energy, the answer is "unresolved", not a number.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from attrs import asdict, frozen

from dsocr_nvtx.measure.gauge import Reading
from dsocr_nvtx.measure.sampling import Held, held_between

LEAST_SECONDS: Final = 2.0
LARGEST_SHARE: Final = 0.25


@frozen(kw_only=True)
class Span:
    """A stretch of host time (perf_counter, ns) in which a stage ran, and nothing else did."""

    start_ns: int
    end_ns: int


@frozen(kw_only=True)
class StageTime:
    """Where a stage ran, and how many tokens it made there. ``source``: run, or repeated on its own."""

    stage: str
    source: str
    spans: tuple[Span, ...]
    tokens: int

    @property
    def seconds(self) -> float:
        """Their length."""
        return sum(span.end_ns - span.start_ns for span in self.spans) / 1e9


def counter_step(readings: Sequence[Reading]) -> float | None:
    """Return the usual step of the energy counter in J, as far as the readings resolve it; None if it never moved."""
    values = [r.energy_mj for r in readings if r.energy_mj is not None]
    steps = [later - earlier for earlier, later in pairwise(values) if later > earlier]
    return median(steps) / 1e3 if steps else None


def counter_at(readings: Sequence[Reading], time_ns: int) -> float | None:
    """Return the counter in J at an instant, between two readings in proportion; None outside them."""
    known = [r for r in readings if r.energy_mj is not None]
    at = bisect_left(known, time_ns, key=lambda r: r.time_ns)
    if at == len(known) or (at == 0 and known[0].time_ns != time_ns):
        return None
    after = known[at]
    before = known[at - 1] if after.time_ns > time_ns else after
    span = after.time_ns - before.time_ns
    share = (time_ns - before.time_ns) / span if span else 0.0
    first, last = float(before.energy_mj or 0), float(after.energy_mj or 0)
    return (first + share * (last - first)) / 1e3


def stage_energy(found: StageTime, readings: Sequence[Reading]) -> dict[str, object]:
    """Return a row of ENERGY."""
    joules, problem = _joules(found, readings)
    step = counter_step(readings)
    doubt = step * (2 * len(found.spans)) ** 0.5 if step is not None and joules is not None else None
    if problem == "" and joules is not None and doubt is not None and doubt > LARGEST_SHARE * joules:
        problem = f"the counter's steps leave {doubt:.1f} J in doubt of {joules:.1f} J"
    resolved = not problem
    return {
        "stage": found.stage,
        "source": found.source,
        "seconds": found.seconds,
        "tokens": found.tokens,
        "joules": joules if resolved else None,
        "uncertainty_j": doubt if resolved else None,
        "tokens_per_joule": found.tokens / joules if resolved and joules else None,
        **asdict(_held(found, readings)),
        "verdict": "resolved" if resolved else f"unresolved: {problem}",
    }


def _joules(found: StageTime, readings: Sequence[Reading]) -> tuple[float | None, str]:
    if found.seconds < LEAST_SECONDS:
        return None, f"{found.seconds:.2f} s of the {LEAST_SECONDS:g} s that the counter needs"
    ends = [(counter_at(readings, span.start_ns), counter_at(readings, span.end_ns)) for span in found.spans]
    gained = [last - first for first, last in ends if first is not None and last is not None]
    if len(gained) < len(ends):
        return None, "the driver gave no energy counter for that time"
    total = sum(gained)
    return (total, "") if total > 0 else (None, "the counter did not move")


def _held(found: StageTime, readings: Sequence[Reading]) -> Held:
    """Return what the gauges held over all spans together."""
    inside = [
        r for r in readings if any(span.start_ns <= r.time_ns <= span.end_ns for span in found.spans)
    ]  # fmt: skip
    if not inside:
        return Held()
    return held_between(inside, inside[0].time_ns, inside[-1].time_ns)
