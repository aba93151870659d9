"""What a gate's rates have above their time, and where two runs' rates may stand beside each other."""

import math

import pyarrow as pa
import pyarrow.compute as pc

from dsocr_nvtx.compare.comparison import StageComparison
from dsocr_nvtx.compare.outs import Out
from dsocr_nvtx.compare.rules import RATES, TIMES, Rule
from dsocr_nvtx.join.columns import numbers


def scale_of(rule: Rule, out: Out, stage: StageComparison, rows: list[int]) -> float:
    """Return what a rate has above its time, per step: tokens, least time, or the share times the time; else 1."""
    if rule.metric not in RATES:
        return 1.0
    if rule.metric == "efficiency":
        return _least(out, stage, rows)
    if rule.metric == "tokens_per_s":
        return 1e9 * stage.tokens_per_unit
    mine = _stage_rows(out, stage)
    shares = mine[rule.metric].combine_chunks().fill_null(0.0).to_numpy(zero_copy_only=False)
    return float((shares * numbers(mine, "wall_ns")).sum() / max(numbers(mine, "steps").max(initial=1), 1))


def unlike_steps(rule: Rule, stage: StageComparison) -> str:
    """Return why a rate of A and one of B are over unlike steps, or nothing.

    Least time, MFU and MBU are known of all steps together: over paired ones only where those are all, and per step.
    """
    if rule.metric not in RATES or rule.metric == "tokens_per_s":
        return ""
    pair = stage.pair
    if pair.unit != "step":
        return f"{rule.metric} is over steps, and tokens a step differ"
    if pair.a.all_steps == pair.b.all_steps == pair.steps:
        return ""
    every = f"A has {pair.a.all_steps}, B has {pair.b.all_steps}"
    return f"{rule.metric} is over all steps, and only {pair.steps} stand beside each other: {every}"


def value_of(rule: Rule, time: float, scale: float) -> float:
    """Return the metric of a rule: a time or a count as it is, a rate over it."""
    if rule.metric not in RATES:
        return time
    return scale / time if time else math.inf


def unit_of(rule: Rule) -> str:
    """Return the unit of the metric."""
    return "ns" if rule.metric in TIMES else "tokens/s" if rule.metric == "tokens_per_s" else ""


def _least(out: Out, stage: StageComparison, rows: list[int]) -> float:
    keys = {(stage.pair.keys[row].module, stage.pair.keys[row].kind, stage.pair.keys[row].layer) for row in rows}
    table = out.rows.select(["stage", "module", "kind", "layer", "roofline_ns"]).to_pylist()
    least = sum(
        row["roofline_ns"]
        for row in table
        if row["stage"] == stage.stage
        and (row["module"], row["kind"], -1 if row["layer"] is None else row["layer"]) in keys
    )
    return float(least) / max(int(numbers(_stage_rows(out, stage), "steps").max(initial=1)), 1)


def _stage_rows(out: Out, stage: StageComparison) -> pa.Table:
    return out.stages.filter(pc.equal(out.stages["stage"].cast(pa.string()), stage.stage))
