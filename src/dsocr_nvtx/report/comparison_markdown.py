"""A comparison or a gate as Markdown, fit for a pull request; names are text, whatever is in them."""

from collections.abc import Iterator, Sequence

from dsocr_nvtx.compare.comparison import Comparison
from dsocr_nvtx.compare.lines import Line, place
from dsocr_nvtx.compare.rules import Rule
from dsocr_nvtx.compare.rulings import Gate
from dsocr_nvtx.report import changes
from dsocr_nvtx.report.causes import called, headed, opened, ranked

_MOST_ROWS = 10
_SPECIAL = frozenset("\\`*_{}[]<>()#+!|~&@:/\"'$^=")
_KEPT = frozenset("()+/:='")
"""Special only in company that is spelt out already."""


def escaped(text: object) -> str:
    """Return text that Markdown, tables and HTML show as it is, in one line."""
    return "".join(
        f"&#{ord(c)};" if (c in _SPECIAL and c not in _KEPT) or not c.isprintable() else c for c in str(text)
    )


def comparison_markdown(found: Comparison, *, limit: int = 10) -> str:
    """Return a comparison: a line per stage, what to be wary of, ``limit`` causes of each, the rows that moved."""
    lines = [
        "### Comparison of two runs",
        "",
        *_runs(found),
        "",
        *_stages(found),
        "",
        *_causes(found, limit),
        "",
        *_calls(found, limit),
        "",
        *_movers(found),
    ]
    return "\n".join([*lines, "", f"{changes.counts_text(found)}.", ""])


def gate_markdown(found: Gate) -> str:
    """Return a gate: its verdict, its rules with the change and interval measured, and what moved most."""
    head = ("rule", "outcome", "baseline", "now", "measured (interval)", "can be decided here", "why")
    rows = [
        (
            one.rule, one.outcome, changes.value_text(one, one.baseline), changes.value_text(one, one.value),
            changes.measured_text(one), changes.decides_text(one), one.reason,
        )
        for one in found.rulings
    ]  # fmt: skip
    lines = [f"### {changes.outcome_text(found.outcome)}", "", *_table(head, rows), ""]
    if any(one.baseline is not None for one in found.rulings):
        lines += [*_runs(found.comparison), "", *_stages(found.comparison), "", *_movers(found.comparison), ""]
    lines.append("Times are those of a typical step. An interval counts noise and what runs of one code may differ by.")
    return "\n".join([*lines, ""])


def _runs(found: Comparison) -> Iterator[str]:
    yield f"A: {escaped(found.a.where)}; B: {escaped(found.b.where)}; level {escaped(found.a.level)}."
    notes = [*found.warnings, *(note for stage in found.stages for note in stage.notes)]
    if notes:
        yield ""
    yield from (f"- note: {escaped(note)}" for note in notes)


def _stages(found: Comparison) -> Iterator[str]:
    yield from (f"- {escaped(changes.headline(stage))}" for stage in found.stages)


def _causes(found: Comparison, limit: int) -> Iterator[str]:
    for stage, causes in ranked(found):
        yield f"What made the difference in {escaped(stage.stage)}, A > B:"
        yield ""
        for number, cause in enumerate(causes[:limit], 1):
            yield f"{number}. {escaped(headed(cause))}; {escaped(opened(cause))}"
        yield ""


def _calls(found: Comparison, limit: int) -> Iterator[str]:
    for stage in found.stages:
        if stage.calls:
            yield f"CUDA calls that changed in {escaped(stage.stage)}, A > B:"
            yield ""
            yield from (f"- {escaped(called(cause))}" for cause in stage.calls[:limit])
            yield ""


def _movers(found: Comparison) -> Iterator[str]:
    moved = [row for stage in found.stages for row in stage.changed()]
    moved.sort(key=lambda row: -abs(row.contribution))
    if not moved:
        yield "No row is better or worse."
        return
    yield f"Largest movers, {min(len(moved), _MOST_ROWS)} of {len(moved)}:"
    yield ""
    yield from _table(("stage", "where", "verdict", "ms per step", "why"), [_mover(row) for row in moved[:_MOST_ROWS]])


def _mover(row: Line) -> Sequence[object]:
    return (row.stage, place(row), row.verdict, changes.signed_ms(row.contribution), row.reason)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _cell(value: object) -> str:
    """Return a rule as code, which people read and copy, and any other text escaped."""
    if isinstance(value, Rule) and not set(value.text) & set("`|\\\n\r"):
        return f"`{value.text}`"
    return escaped(value.text if isinstance(value, Rule) else value)
