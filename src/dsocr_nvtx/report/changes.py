"""Changes between two runs as people read them: signs, units, and where a stage's time went."""

import math
from collections import Counter
from collections.abc import Iterator

from dsocr_nvtx.compare.comparison import Comparison, StageComparison
from dsocr_nvtx.compare.lines import Line, Moved, place
from dsocr_nvtx.compare.noise import ENOUGH_STEPS
from dsocr_nvtx.compare.rules import Operator
from dsocr_nvtx.compare.rulings import Outcome, Ruling
from dsocr_nvtx.compare.steps import PARTS
from dsocr_nvtx.compare.verdicts import Verdict
from dsocr_nvtx.report.causes import WAITS

CAUSES = {
    "busy": "GPU busy time",
    **{name: f"idle {text}" for name, text in WAITS.items()},
    "capture": "capturing CUDA graphs",
}
COLOURS = {"better": "green", "worse": "red", "same": "", "inconclusive": "yellow"}
LEGEND = (
    "same: below the smallest change that counts, and so is the noise bound; inconclusive: noise, or what two runs of "
    "one code may differ by, could explain it, or no noise bound is known: of idle time none is where fewer than "
    f"{ENOUGH_STEPS} steps ran. Times and percentages are means over the compared steps, verdicts rest on a typical one"
)


def signed_ms(ns: float) -> str:
    """Return a change in milliseconds, with its sign."""
    return f"{ns / 1e6:+,.3f}"


def signed_percent(share: float | None) -> str:
    """Return a relative change, with its sign; a dash where there is nothing to be relative to."""
    if share is None:
        return "-"
    return f"{share:+.1%}" if math.isfinite(share) else "no limit"


def before_after(moved: Moved) -> str:
    """Return the times of both runs in milliseconds."""
    return f"{moved.a / 1e6:,.3f} > {moved.b / 1e6:,.3f}"


def causes(stage: StageComparison) -> list[tuple[str, int]]:
    """Return what a stage's change of wall time is made of, in ns per unit, the largest first; the parts add up."""
    running = [row for row in stage.rows if row.phase == "run"]
    found = {part: sum(row.parts[at] for row in running) for at, part in enumerate(PARTS)}
    found["capture"] = sum(row.contribution for row in stage.rows if row.phase == "capture")
    return sorted(((CAUSES[name], ns) for name, ns in found.items() if ns), key=lambda one: (-abs(one[1]), one[0]))


def headline(stage: StageComparison) -> str:
    """Return one sentence on a stage: its verdict, its wall and busy time in both runs, and how much faster it is.

    Times are those of the compared steps, as in every table; capturing graphs, once a run, is told beside them.
    """
    total = stage.total
    times = f"{before_after(total.wall)} ms a {total.unit}, {speed(total.wall)}; GPU busy {before_after(total.busy)}"
    captured = sum(row.contribution for row in stage.rows if row.phase == "capture")
    beside = f"; beside it {CAUSES['capture']}, once a run and spread over its steps: {signed_ms(captured)}"
    return f"{stage.stage} is {_judged(total)}; {times}{beside if captured else ''}"


_AS_FAST = 0.005
"""Share by which times may differ that are called as fast."""


def speed(moved: Moved) -> str:
    """Return how much faster or slower B is, by the times that are printed beside it."""
    if not moved.a or not moved.b:
        return "as fast" if moved.a == moved.b else "only in B" if moved.b else "only in A"
    ratio = moved.b / moved.a
    if abs(ratio - 1) < _AS_FAST:
        return "as fast"
    return f"{ratio:.2f}x slower" if ratio > 1 else f"{1 / ratio:.2f}x faster"


def _judged(line: Line) -> str:
    if line.verdict == Verdict.SAME:
        return "the same, noise counted"
    return f"{line.verdict}: {line.reason}" if line.reason else str(line.verdict)


def moved_layers(found: Comparison) -> Iterator[tuple[str, Line]]:
    """Yield the layers whose sums are better or worse, with their places."""
    for stage in found.stages:
        for layer in stage.layers:
            if layer.verdict.is_change:
                yield f"{layer.stage} {place(layer)}", layer


def counts_text(found: Comparison) -> str:
    """Return how many rows of both runs have each verdict, and how many rows only one of them has."""
    verdicts = Counter(row.verdict for row in found.rows if row.present == "both")
    text = f"{len(found.rows)} rows: " + ", ".join(f"{verdicts[name]} {name}" for name in Verdict)
    alone = Counter(row.present for row in found.rows)
    return text + "".join(f"; {alone[side]} only in {side}" for side in ("A", "B") if alone[side])


def limits_text(found: Comparison) -> str:
    """Return what counts as a change, and what is allowed for between runs."""
    limits = found.limits
    return (
        f"counts as a change: {_rise_or_fall(limits.busy_min)} of busy time, {_rise_or_fall(limits.idle_allowed)} of "
        "idle time. Allowed for between runs beside the noise of steps, of the mean of both: busy "
        f"{limits.busy_allowed:.0%} and {limits.launch_ns:.0f} ns a "
        f"launch ({limits.peer_allowed:.0%} against rows of equal shape in other layers), idle "
        f"{limits.idle_allowed:.0%} and {limits.idle_call_ns / 1e3:.0f} us a call, {limits.once_factor:.0f} times "
        "that where a stage ran once"
    )


def _rise_or_fall(share: float) -> str:
    """Return the rise and the fall that count, as shares of A: a fall is as large as the rise that undoes it."""
    return f"{share:+.0%} or {1 / (1 + share) - 1:.0%}"


def value_text(ruling: Ruling, value: float | None) -> str:
    """Return a ruling's value in its unit; times in milliseconds."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "no limit"
    if ruling.unit == "ns":
        return f"{value / 1e6:,.3f} ms"
    return f"{value:,.4g}{' ' + ruling.unit if ruling.unit else ''}"


def measured_text(ruling: Ruling) -> str:
    """Return what is held against the bound and the interval it lies in."""
    ends = [ruling.low, ruling.high]
    if ruling.rule.relative:
        return f"{signed_percent(ruling.measured)} ({signed_percent(ends[0])} to {signed_percent(ends[1])})"
    low, high = (value_text(ruling, end) for end in ends)
    return f"{value_text(ruling, ruling.measured)} ({low} to {high})"


def decides_text(ruling: Ruling) -> str:
    """Return from where on a rule is decided here: the values at which it surely passes, and surely fails."""
    wide, bound = ruling.resolution, ruling.rule.bound
    if not math.isfinite(wide):
        return "nothing"
    ends = (bound - wide, bound + wide)
    low, high = (signed_percent(end) if ruling.rule.relative else value_text(ruling, end) for end in ends)
    if not ruling.rule.relative and ends[0] < 0:
        low = "no value"
    at_most = ruling.rule.operator in (Operator.AT_MOST, Operator.BELOW)
    return f"passes to {low}, fails from {high}" if at_most else f"passes from {high}, fails to {low}"


def outcome_text(outcome: Outcome) -> str:
    """Return what a gate says, in a sentence."""
    return {
        Outcome.PASS: "The gate holds: every rule is kept, noise counted.",
        Outcome.FAIL: "The gate does not hold: a rule is broken, noise counted.",
        Outcome.INCONCLUSIVE: "Inconclusive: no rule is surely broken, but noise leaves at least one open.",
    }[outcome]
