"""A gate: rules held against a run, with the noise counted. A rule passes or fails only if that is sure."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from attrs import evolve

from dsocr_nvtx.compare.baselines import FEWEST, against_several
from dsocr_nvtx.compare.comparison import Comparison, StageComparison, compare, judge_rows
from dsocr_nvtx.compare.judging import allowances
from dsocr_nvtx.compare.lines import Line, Moved
from dsocr_nvtx.compare.noise import ENOUGH_STEPS, repeated, typical
from dsocr_nvtx.compare.outs import Out
from dsocr_nvtx.compare.rates import scale_of, unit_of, unlike_steps, value_of
from dsocr_nvtx.compare.rules import RATES, TIMES, Rule
from dsocr_nvtx.compare.rulings import Gate, Outcome, Ruling
from dsocr_nvtx.compare.series import NO_STEP, row_times, stage_series, usual_count
from dsocr_nvtx.compare.steps import PARTS, Key
from dsocr_nvtx.compare.verdicts import Limits
from dsocr_nvtx.errors import Refused, UsageError
from dsocr_nvtx.roofline.least import Floats
from dsocr_nvtx.schema.records import HOST_PREFIX

_OPEN = "the noise leaves both"


def gate(
    out: Out, baseline: Out | None, rules: Sequence[Rule], limits: Limits | None = None, more: Sequence[Out] = ()
) -> Gate:
    """Hold rules against a run. Refused: a rule that no row matches, and runs of different levels.

    ``more`` are further runs of the baseline's code, from whose scatter the noise is taken then. A usage error: no
    rule, a relative rule without a baseline, and two baselines, which are too few to see scatter in.
    """
    if not rules:
        raise UsageError("no rule: give --rule 'decode.busy_ns<=+3%' once or more")
    missing = [rule.text for rule in rules if rule.relative and baseline is None]
    if missing:
        raise UsageError(f"rule {missing[0]!r} is a change: give --baseline DIRECTORY")
    if 0 < len(more) < FEWEST - 1:
        raise UsageError(f"{len(more) + 1} baselines: give one, or {FEWEST} and more, to see how much runs differ")
    limits = limits or Limits()
    itself = compare(out, out, limits)
    found = compare(baseline, out, limits) if baseline is not None else itself
    several = [found, *(compare(one, out, limits) for one in more)]
    parts = out.by_process() if any(_is_of_one(rule) for rule in rules) else {}
    alone = {name: compare(part, part, limits) for name, part in parts.items()} if len(parts) > 1 else {}

    def ruled(rule: Rule) -> Ruling:
        if rule.relative:
            return _together(_against(rule, several) if more else _relative(rule, found), found)
        if alone and _is_of_one(rule):
            return _worst(rule, itself, alone, limits)
        return _together(_absolute(rule, itself, limits), itself)

    return Gate(rulings=[ruled(rule) for rule in rules], comparison=found)


def _against(rule: Rule, several: Sequence[Comparison]) -> Ruling:
    """Return the ruling on a change against several baselines; where one is no equal work, that against it."""
    each = [_relative(rule, found) for found in several]
    unlike = next((one for one in each if one.reason not in ("", _OPEN) or not -1 < one.measured < math.inf), None)
    if unlike is not None:
        return unlike
    told = against_several([one.measured for one in each])
    baseline = float(np.mean([one.baseline for one in each if one.baseline is not None]))
    ruling = _ruled(evolve(each[0], baseline=baseline, reason=""), told.change, told.low, told.high, "")
    return _also(ruling, f"against the mean of {len(each)} baselines, by their own scatter")


def _relative(rule: Rule, found: Comparison) -> Ruling:
    stage, rows = _matching(rule, found)
    moved, unlike = _measured(rule, stage, rows, found.limits)
    unlike = unlike or unlike_steps(rule, stage)
    scale = scale_of(rule, found.a, stage, rows), scale_of(rule, found.b, stage, rows)
    values = [value_of(rule, time, one) for time, one in zip((moved.typical, moved.typical_b), scale, strict=True)]
    span = moved.interval
    bare = Ruling(
        rule=rule, outcome=Outcome.INCONCLUSIVE, unit=unit_of(rule), baseline=values[0], value=values[1], measured=0.0,
        low=0.0, high=0.0,
    )  # fmt: skip
    if span is None or moved.relative is None:
        if not moved.change:
            return _ruled(bare, 0.0, 0.0, 0.0, unlike)
        return evolve(bare, measured=math.inf, low=-math.inf, high=math.inf, reason="the baseline took no such time")
    change, low, high = moved.relative, *span
    if rule.metric in RATES:
        factor = scale[1] / scale[0] if scale[0] else 1.0
        change, high, low = (factor / (1 + x) - 1 if x > -1 else math.inf for x in (change, low, high))
    return _ruled(bare, change, low, high, unlike)


def _is_of_one(rule: Rule) -> bool:
    """Return whether a rule bounds a time itself: ranks work side by side, so each has to keep it."""
    return rule.metric in TIMES and not rule.relative


def _worst(rule: Rule, itself: Comparison, alone: Mapping[str, Comparison], limits: Limits) -> Ruling:
    """Return the ruling of the process and device that keeps a bound worst; of equals that of the slowest."""
    _matching(rule, itself)
    found = []
    for name, part in alone.items():
        with suppress(Refused):  # this one has no such rows, and another has
            found.append((name, _absolute(rule, part, limits)))
    worst = (Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL)
    name, ruling = max(found, key=lambda one: (worst.index(one[1].outcome), one[1].value))
    return _also(ruling, f"{name}: the worst of {len(found)}")


def _together(ruling: Ruling, found: Comparison) -> Ruling:
    """Return a ruling that says so where its values are over several processes."""
    count = max(found.a.processes, found.b.processes)
    what = "a mean" if ruling.rule.metric in RATES else "a sum"
    return _also(ruling, f"{what} over {count} processes and devices") if count > 1 else ruling


def _also(ruling: Ruling, reason: str) -> Ruling:
    return evolve(ruling, reason=f"{ruling.reason}; {reason}" if ruling.reason else reason)


def _absolute(rule: Rule, itself: Comparison, limits: Limits) -> Ruling:
    stage, rows = _matching(rule, itself)
    scale = scale_of(rule, itself.b, stage, rows)
    times = _times(rule, stage, rows)
    bound = repeated(times) if len(times) >= ENOUGH_STEPS else None
    usual = bound.change if bound else typical(times)
    wide = (bound.half if bound else 0.0) + _allowance(rule, stage, rows, limits)
    value, low, high = (value_of(rule, time, scale) for time in (usual, max(usual - wide, 0.0), usual + wide))
    if rule.metric in RATES:
        low, high = high, low
    unsure, unit = Outcome.INCONCLUSIVE, unit_of(rule)
    bare = Ruling(rule=rule, outcome=unsure, unit=unit, baseline=None, value=value, measured=value, low=low, high=high)
    return _ruled(bare, value, low, high, "")


def _ruled(bare: Ruling, measured: float, low: float, high: float, unlike: str) -> Ruling:
    """Return the ruling: sure where both ends of the interval agree, and the work is the same."""
    ends = [bare.rule.operator.holds(end, bare.rule.bound) for end in (low, high)]
    outcome = Outcome.PASS if all(ends) else Outcome.INCONCLUSIVE if any(ends) else Outcome.FAIL
    reason = "" if outcome != Outcome.INCONCLUSIVE else _OPEN
    if unlike:
        outcome, reason = Outcome.INCONCLUSIVE, unlike
    return evolve(bare, outcome=outcome, measured=measured, low=low, high=high, reason=reason)


def _matching(rule: Rule, found: Comparison) -> tuple[StageComparison, list[int]]:
    stage = next((one for one in found.stages if one.stage == rule.stage), None)
    if stage is None:
        known = ", ".join(one.stage for one in found.stages)
        raise Refused(found.b.where, f"no stage {rule.stage}, which rule {rule.text!r} is about", f"it has: {known}")
    rows = [at for at, key in enumerate(stage.pair.keys) if _matches(rule, key)]
    if not rows:
        known = ", ".join(sorted({word for key in stage.pair.keys for word in (key.module, key.kind)}))
        raise Refused(found.b.where, f"no row of rule {rule.text!r}", f"modules and kinds of {rule.stage}: {known}")
    return stage, rows


def _matches(rule: Rule, key: Key) -> bool:
    words = all(word in (key.module, key.kind, key.module.removeprefix(HOST_PREFIX)) for word in rule.words)
    return words and rule.layer in (None, key.layer)


def _measured(rule: Rule, stage: StageComparison, rows: list[int], limits: Limits) -> tuple[Moved, str]:
    """Return the change of the rule's time over matching rows, and why they are no equal work, or nothing."""
    pair = stage.pair
    if rule.metric == "launches":
        a, b = (usual_count(side, "launches", rows) for side in (pair.a, pair.b))
        return Moved.exact(a, b), "" if pair.steps else NO_STEP
    metric = RATES.get(rule.metric, rule.metric)
    parts = TIMES[metric]
    idle = parts if parts not in (PARTS, PARTS[:1]) else PARTS[1:]
    series = stage_series(pair, rows, idle)
    line = _line(stage, rows)
    if line is not None and parts == PARTS[:1]:
        return line.busy, series.comparable
    judged = judge_rows(pair, [series], limits)[0]
    return (judged.busy if parts == PARTS[:1] else judged.wall if parts == PARTS else judged.idle), series.comparable


def _line(stage: StageComparison, rows: list[int]) -> Line | None:
    """Return the row or layer that a rule is about, if it is one: those are held against their peers."""
    if len(rows) == 1:
        return stage.rows[rows[0]]
    places = {(stage.pair.keys[row].module, stage.pair.keys[row].layer) for row in rows}
    for layer in stage.layers:
        members = [
            at for at, key in enumerate(stage.pair.keys) if (key.module, key.layer) == (layer.module, layer.layer)
        ]
        if places == {(layer.module, layer.layer)} and members == rows:
            return layer
    return None


def _times(rule: Rule, stage: StageComparison, rows: list[int]) -> Floats:
    if rule.metric == "launches":
        return np.array([usual_count(stage.pair.b, "launches", rows)])
    return row_times(stage.pair.b, rows, TIMES[RATES.get(rule.metric, rule.metric)])


def _allowance(rule: Rule, stage: StageComparison, rows: list[int], limits: Limits) -> float:
    """Return what the same code may take more or less in another run."""
    if rule.metric == "launches":
        return 0.0
    parts = TIMES[RATES.get(rule.metric, rule.metric)]
    allowed = allowances(stage_series(stage.pair, rows, [part for part in parts if part != "busy"]), limits)
    return allowed.busy * ("busy" in parts) + allowed.idle * (parts != PARTS[:1])
