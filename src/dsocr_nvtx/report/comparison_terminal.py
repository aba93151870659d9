"""A comparison or a gate in a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from dsocr_nvtx.compare.comparison import Comparison
from dsocr_nvtx.compare.lines import Line, place
from dsocr_nvtx.compare.rulings import Gate, Ruling
from dsocr_nvtx.errors import printable
from dsocr_nvtx.report import changes, words
from dsocr_nvtx.report.causes import Sort, called, headed, opened, ranked
from dsocr_nvtx.report.columns import Column, fits, table

_MOST_LAYERS = 5


def _told(line: Line) -> words.Record:
    return {
        "stage": line.stage, "where": place(line), "verdict": str(line.verdict), "reason": line.reason,
        "speed": changes.speed(line.wall), "steps": line.steps, "unit": line.unit,
        "change": changes.signed_ms(line.contribution),
        **{name: changes.before_after(getattr(line, name)) for name in ("busy", "idle", "wall")},
        **{f"{name}_change": changes.signed_percent(getattr(line, name).share) for name in ("busy", "idle", "wall")},
    }  # fmt: skip


def _text(
    title: str, name: str, *, left: bool = False, wide: bool = False, spare: bool = False, folds: bool = False
) -> Column:
    return Column(title=title, text=lambda row: str(row[name]), left=left or folds, wide=wide, spare=spare, folds=folds)


_VERDICT = Column(
    title="verdict",
    text=lambda row: str(row["verdict"]),
    style=lambda row: changes.COLOURS[str(row["verdict"])],
    left=True,
)
_STAGES = (
    _text("stage", "stage", left=True),
    _VERDICT,
    _text("per", "unit", left=True, spare=True),
    _text("compared", "steps", spare=True),
    _text("wall", "wall"),
    _text("B is", "speed", spare=True),
    _text("busy", "busy", wide=True),
    _text("busy by", "busy_change"),
    _text("idle", "idle", wide=True),
    _text("idle by", "idle_change"),
)
_ROWS = (
    _text("stage", "stage", left=True),
    _text("where", "where", folds=True),
    _VERDICT,
    _text("adds", "change"),
    _text("busy", "busy", wide=True),
    _text("why", "reason", folds=True),
)


def show_comparison(console: Console, found: Comparison, *, limit: int = 10, sort: Sort = Sort.COST) -> None:
    """Print what to be wary of, a sentence and a line per stage, what made the difference, and what verdicts rest on.

    Of causes, and of rows that moved, ``limit`` are told: of causes so many a stage.
    """
    _say(console, f"A: {found.a.where}\nB: {found.b.where}")
    for line in [*found.warnings, *(note for stage in found.stages for note in stage.notes)]:
        _say(console, f"note: {line}", "yellow")
    for stage in found.stages:
        _say(console, changes.headline(stage), changes.COLOURS[stage.total.verdict])
    _show_causes(console, found, limit, sort)
    _show_calls(console, found, limit)
    title = "Stages, A > B (times in ms per step or token; graph capture left out)"
    console.print(table(console, title, _STAGES, [_told(stage.total) for stage in found.stages]))
    _show_rows(console, found, limit)
    layers = sorted(changes.moved_layers(found), key=lambda one: -abs(one[1].contribution))
    for where, layer in layers[:_MOST_LAYERS]:
        _say(console, f"layer {where}: {layer.verdict}, {layer.reason}", changes.COLOURS[layer.verdict])
    if len(layers) > _MOST_LAYERS:
        _say(console, f"and {len(layers) - _MOST_LAYERS} layers more")
    _say(console, f"\n{changes.counts_text(found)}\n{changes.LEGEND}\n{changes.limits_text(found)}", "dim")


def _show_causes(console: Console, found: Comparison, limit: int, sort: Sort) -> None:
    """Print what made the difference, stage by stage, that first which weighs most over the run."""
    told = ranked(found, sort=sort)
    if not told:
        _say(console, "\nno kernel, layer or wait is faster or slower for sure")
    for stage, causes in told:
        _say(console, f"\nWhat made the difference in {stage.stage}, A > B:", "bold")
        for number, cause in enumerate(causes[:limit], 1):
            _say(console, f"{number}. {headed(cause)}", changes.COLOURS[cause.verdict])
            _say(console, f"   {opened(cause)}", "dim")
        if len(causes) > limit:
            _say(console, f"and {len(causes) - limit} more: --limit")


def _show_calls(console: Console, found: Comparison, limit: int) -> None:
    """Print the CUDA calls that changed, which cost a step where the GPU waits for them."""
    for stage in found.stages:
        for number, cause in enumerate(stage.calls[:limit]):
            if not number:
                _say(console, f"\nCUDA calls that changed in {stage.stage}, A > B:", "bold")
            _say(console, f"- {called(cause)}", changes.COLOURS[cause.verdict])
        if len(stage.calls) > limit:
            _say(console, f"and {len(stage.calls) - limit} more: --limit")


def _show_rows(console: Console, found: Comparison, limit: int) -> None:
    moved = [row for stage in found.stages for row in stage.changed()]
    moved.sort(key=lambda row: -abs(row.contribution))
    if not moved:
        _say(console, "\nno row is better or worse")
        return
    title = f"Rows that moved, {min(len(moved), limit)} of {len(moved)} (adds: ms to the stage's wall per step)"
    console.print(table(console, title, _ROWS, [_told(row) for row in moved[:limit]]))


_OUTCOME = Column(
    title="outcome",
    text=lambda row: str(row["outcome"]),
    style=lambda row: {"pass": "green", "fail": "red"}.get(str(row["outcome"]), "yellow"),
    left=True,
)
_RULES = (
    _text("rule", "rule", left=True),
    _OUTCOME,
    _text("baseline", "baseline"),
    _text("now", "value"),
    _text("measured (interval)", "measured"),
    _text("can be decided here", "decides", left=True),
    _text("why", "reason", left=True),
)


def show_gate(console: Console, found: Gate) -> None:
    """Print the verdict of a gate and its rules: a table where it fits, else each rule's lines."""
    for line in found.comparison.warnings if _has_baseline(found.rulings) else ():
        _say(console, f"note: {line}", "yellow")
    _say(console, changes.outcome_text(found.outcome))
    rulings = [_ruling(one) for one in found.rulings]
    if fits(console.width, _RULES, rulings):
        console.print(table(console, "Rules (times in ms per step)", _RULES, rulings))
    else:
        _show_below(console, rulings)


def _show_below(console: Console, rulings: Sequence[words.Record]) -> None:
    """Print each rule as lines below one another, for a terminal that its figures do not fit side by side."""
    for one in rulings:
        _say(console, f"\n{_OUTCOME.text(one)}: {one['rule']}", _OUTCOME.style(one))
        before = "" if one["baseline"] == "-" else f"baseline {one['baseline']}, "
        _say(console, f"  {before}now {one['value']}")
        _say(console, f"  measured {one['measured']}")
        _say(console, f"  {one['decides']}")
        if one["reason"]:
            _say(console, f"  why: {one['reason']}")


def _has_baseline(rulings: Sequence[Ruling]) -> bool:
    return any(one.rule.relative for one in rulings)


def _ruling(one: Ruling) -> words.Record:
    return {
        "rule": one.rule.text, "outcome": str(one.outcome), "baseline": changes.value_text(one, one.baseline),
        "value": changes.value_text(one, one.value), "measured": changes.measured_text(one), "reason": one.reason,
        "decides": changes.decides_text(one),
    }  # fmt: skip


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(printable(text), style=style), soft_wrap=True)
