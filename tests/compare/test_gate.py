"""Gates: every way a rule can end, what a rule may say, and what is refused."""

import math
import re

import numpy as np
import pytest

from dsocr_nvtx.compare.baselines import against_several
from dsocr_nvtx.compare.gate import gate
from dsocr_nvtx.compare.outs import Out
from dsocr_nvtx.compare.rules import Operator, parse_rule
from dsocr_nvtx.compare.rulings import EXIT_CODES, Outcome, gate_table
from dsocr_nvtx.errors import Refused, UsageError
from dsocr_nvtx.report.changes import decides_text
from tests.builders.runs import call, model_call, noisy_run, out_of
from tests.builders.tables import Row


def steady(busy: int, idle: int = 0, *, steps: int = 10, layers: int = 1) -> Out:
    """Return a run of equal steps of one token."""
    calls: list[Row] = []
    for step in range(steps):
        calls.append(model_call(step, kv_len=100 + step))
        calls += [call(busy, idle, step=step, layer=layer) for layer in range(layers)]
    return out_of(calls)


def outcome(rule: str, now: Out, baseline: Out | None = None) -> Outcome:
    """Return the outcome of one rule."""
    return gate(now, baseline, [parse_rule(rule)]).outcome


@pytest.mark.parametrize(
    ("rule", "now", "expected"),
    [
        ("decode.busy_ns<=+3%", 100_000, Outcome.PASS),
        ("decode.busy_ns<=+3%", 103_000, Outcome.INCONCLUSIVE),
        ("decode.busy_ns<=+3%", 110_000, Outcome.FAIL),
        ("decode.busy_ns<=-3%", 90_000, Outcome.PASS),
        ("decode.busy_ns<=-3%", 100_000, Outcome.FAIL),
        ("decode.mlp.busy_ns<=+3%", 110_000, Outcome.FAIL),
        ("decode.decoder.mlp.0.busy_ns<=+3%", 110_000, Outcome.FAIL),
        ("decode.0.busy_ns<=+3%", 100_000, Outcome.PASS),
        ("decode.busy_ns>=+3%", 110_000, Outcome.PASS),
        ("decode.efficiency>=-3%", 110_000, Outcome.FAIL),
        ("decode.launches<=+0%", 110_000, Outcome.PASS),
        ("decode.busy_ns<=105us", 100_000, Outcome.PASS),
        ("decode.busy_ns<=0.1005ms", 100_000, Outcome.INCONCLUSIVE),
        ("decode.busy_ns<=95us", 100_000, Outcome.FAIL),
        ("decode.launches<1.5", 100_000, Outcome.PASS),
        ("decode.mfu>=0.4", 100_000, Outcome.PASS),
        ("decode.mbu>0.4", 100_000, Outcome.FAIL),
    ],
)
def test_a_rule_passes_or_fails_only_where_both_ends_of_the_interval_agree(rule: str, now: int, expected: str) -> None:
    assert outcome(rule, steady(now), steady(100_000)) == expected


def test_tokens_per_second_and_efficiency_are_over_typical_steps() -> None:
    found = gate(
        steady(50_000, 50_000), None, [parse_rule("decode.tokens_per_s>=1"), parse_rule("decode.efficiency>0")]
    )
    rate, efficiency = found.rulings
    assert rate.unit == "tokens/s"
    assert rate.value == pytest.approx(10_000)
    # Two rows of 1000 ns at the roof over ten steps, against 50 us busy a step.
    assert efficiency.value == pytest.approx(200 / 50_000)


@pytest.mark.parametrize("metric", ["tokens_per_s", "efficiency", "mfu", "mbu", "launches"])
@pytest.mark.parametrize("bound", [">=0", ">=-50%"])
def test_every_interval_holds_what_was_measured(metric: str, bound: str) -> None:
    [ruling] = gate(noisy_run(2), noisy_run(1), [parse_rule(f"decode.{metric}{bound}")]).rulings
    assert ruling.low <= ruling.measured <= ruling.high


def test_a_run_against_itself_keeps_every_rule_of_no_change() -> None:
    run = noisy_run(3)
    rules = ["decode.busy_ns<=+0%", "decode.wall_ns<=+0%", "decode.tokens_per_s>=-0%", "decode.idle_host_ns<=0%"]
    assert gate(run, run, [parse_rule(rule) for rule in rules]).outcome == Outcome.PASS


def test_idle_time_of_a_host_is_too_noisy_for_a_narrow_rule_but_not_for_a_wide_one() -> None:
    a, b = noisy_run(1), noisy_run(2)
    assert outcome("decode.wall_ns<=+3%", b, a) == Outcome.INCONCLUSIVE
    assert outcome("decode.busy_ns<=+4%", b, a) == Outcome.PASS
    assert outcome("decode.wall_ns<=-50%", noisy_run(2, host=0.01), a) == Outcome.PASS


def test_one_slow_layer_fails_its_rule_by_its_peers() -> None:
    """Alone, 5 % of a small row is what addresses can do; eleven peers that stood still say it is not that."""
    a, b = noisy_run(1), noisy_run(2, slow={4: 1.08})
    assert outcome("decode.experts.4.busy_ns<=+3%", b, a) == Outcome.FAIL
    assert outcome("decode.4.busy_ns<=+3%", b, a) == Outcome.FAIL


def test_failure_wins_over_inconclusive_and_that_over_pass() -> None:
    rules = [parse_rule(f"decode.busy_ns<={bound}us") for bound in (200, 100, 50)]
    run = steady(100_000)
    assert gate(run, None, rules[:1]).outcome == Outcome.PASS
    assert gate(run, None, rules[:2]).outcome == Outcome.INCONCLUSIVE
    assert gate(run, None, rules).outcome == Outcome.FAIL
    assert [EXIT_CODES[one] for one in (Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE)] == [0, 1, 4]


def test_unlike_work_is_inconclusive() -> None:
    def run(batch: int) -> Out:
        return out_of([call(100_000, step=step, batch=batch) for step in range(10)])

    found = gate(run(16), run(1), [parse_rule("decode.busy_ns<=+3%")])
    assert (found.outcome, found.rulings[0].reason) == (Outcome.INCONCLUSIVE, "shapes differ: 1x1 against 16x1")


def test_a_stage_that_is_gone_keeps_no_rule() -> None:
    gone = out_of([call(1000, stage="prefill")])
    assert outcome("decode.busy_ns<=+3%", gone, steady(1000)) == Outcome.INCONCLUSIVE


@pytest.mark.parametrize("metric", ["efficiency", "mfu", "mbu"])
@pytest.mark.parametrize("bound", [">=-3%", "<=+3%", ">=-90%"])
def test_a_rate_over_all_steps_says_nothing_of_the_paired_ones(metric: str, bound: str) -> None:
    """Longer caches have more to read: the same code is no less efficient for its shorter run."""
    short, long = (steady(100_000, steps=steps) for steps in (16, 32))
    for now, baseline in ((short, long), (long, short)):
        [ruling] = gate(now, baseline, [parse_rule(f"decode.{metric}{bound}")]).rulings
        assert ruling.outcome == Outcome.INCONCLUSIVE
        assert "only 16 stand beside each other" in ruling.reason
    assert outcome(f"decode.{metric}>=-3%", long, long) == Outcome.PASS


def test_a_rate_over_steps_says_nothing_where_times_are_per_token() -> None:
    a, b = (out_of([model_call(s, tokens=n), call(1000, step=s)]) for s, n in ((0, 1), (0, 2)))
    [ruling] = gate(b, a, [parse_rule("decode.mfu>=-99%")]).rulings
    assert ruling.outcome == Outcome.INCONCLUSIVE


@pytest.mark.parametrize("metric", ["busy_ns", "wall_ns", "launches"])
def test_a_stage_without_a_paired_step_keeps_no_rule(metric: str) -> None:
    """The baseline only captured its decode step: nothing in it stands beside a step that ran."""
    captured = out_of([call(1000, origin="captured")])
    [ruling] = gate(steady(1000), captured, [parse_rule(f"decode.{metric}<=+3%")]).rulings
    assert (ruling.outcome, ruling.reason) == (Outcome.INCONCLUSIVE, "no step stands beside another")


def ranks(*busy: int, steps: int = 10) -> Out:
    """Return a run of several processes, each with a busy time of its own."""
    return out_of([call(ns, step=step, pid=7 + at) for at, ns in enumerate(busy) for step in range(steps)])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("decode.busy_ns<=130us", Outcome.PASS),
        ("decode.busy_ns<=110us", Outcome.FAIL),
        ("decode.wall_ns<=120us", Outcome.INCONCLUSIVE),
        ("decode.mlp.0.busy_ns<=110us", Outcome.FAIL),
    ],
)
def test_every_rank_keeps_a_bound_on_time_and_the_worst_is_named(rule: str, expected: str) -> None:
    [ruling] = gate(ranks(100_000, 120_000, 90_000), None, [parse_rule(rule)]).rulings
    assert (ruling.outcome, ruling.value) == (expected, 120_000)
    assert ruling.reason.endswith("process 8: the worst of 3")


def test_what_is_over_several_ranks_together_says_so() -> None:
    run = ranks(100_000, 100_000)
    rules = [parse_rule(rule) for rule in ("decode.busy_ns<=+3%", "decode.launches<=2", "decode.efficiency>0")]
    rulings = gate(run, run, rules).rulings
    assert [ruling.value for ruling in rulings[:2]] == [200_000, 2]
    assert {ruling.outcome for ruling in rulings} == {Outcome.PASS}
    over = "over 2 processes and devices"
    assert [ruling.reason for ruling in rulings] == [f"a sum {over}", f"a sum {over}", f"a mean {over}"]
    assert gate(ranks(100_000), None, rules[1:]).rulings[0].reason == ""


def test_a_rank_without_such_rows_is_no_rank_of_the_rule() -> None:
    calls = [call(100_000, step=step, pid=7) for step in range(10)]
    run = out_of([*calls, *(call(900_000, step=step, pid=8, stage="prefill") for step in range(10))])
    [ruling] = gate(run, None, [parse_rule("decode.busy_ns<=110us")]).rulings
    assert (ruling.outcome, ruling.value) == (Outcome.PASS, 100_000)
    with pytest.raises(Refused, match="no stage vision"):
        gate(run, None, [parse_rule("vision.busy_ns<=110us")])


def test_a_baseline_without_such_time_is_inconclusive_and_none_in_either_is_no_change() -> None:
    assert outcome("decode.idle_ns<=+3%", steady(100, 10_000_000), steady(100)) == Outcome.INCONCLUSIVE
    assert outcome("decode.idle_ns<=+3%", steady(100), steady(100)) == Outcome.PASS


def test_a_rule_without_rows_or_stage_is_refused_and_says_what_there_is() -> None:
    with pytest.raises(Refused, match=r"no row of rule 'decode.experts.busy_ns<=1ms'; modules and kinds .*mlp"):
        outcome("decode.experts.busy_ns<=1ms", steady(1))
    with pytest.raises(Refused, match="no stage vision"):
        outcome("vision.busy_ns<=1ms", steady(1))


def test_a_change_needs_a_baseline_and_a_gate_a_rule() -> None:
    with pytest.raises(UsageError, match="--baseline"):
        outcome("decode.busy_ns<=+3%", steady(1))
    with pytest.raises(UsageError, match="no rule"):
        gate(steady(1), None, [])


def test_what_has_no_limit_is_null_in_the_table() -> None:
    found = gate(steady(100, 10_000_000), steady(100), [parse_rule("decode.idle_ns<=+3%")])
    [row] = gate_table(found).to_pylist()
    assert (row["measured"], row["low"], row["high"]) == (None, None, None)
    assert row["reason"] == "the baseline took no such time"


def test_the_table_has_a_row_per_rule() -> None:
    found = gate(
        steady(100_000), steady(100_000), [parse_rule("decode.busy_ns<=+3%"), parse_rule("decode.wall_ns<=1s")]
    )
    table = gate_table(found)
    assert table["outcome"].to_pylist() == ["pass", "pass"]
    assert table["baseline"].to_pylist() == [100_000, None]
    assert table.schema.metadata[b"outcome"] == b"pass"


@pytest.mark.parametrize(
    ("text", "metric", "operator", "bound", "relative"),
    [
        ("decode.busy_ns<=+3%", "busy_ns", Operator.AT_MOST, 0.03, True),
        (" decode.busy_ns <= 3 % ", "busy_ns", Operator.AT_MOST, 0.03, True),
        ("decode.wall_ns<15ms", "wall_ns", Operator.BELOW, 15e6, False),
        ("prefill.idle_host_ns<=.5us", "idle_host_ns", Operator.AT_MOST, 500, False),
        ("vision.efficiency>=0.4", "efficiency", Operator.AT_LEAST, 0.4, False),
        ("decode.tokens_per_s>-2.5%", "tokens_per_s", Operator.ABOVE, -0.025, True),
        ("decode.tokens_per_s>5%", "tokens_per_s", Operator.ABOVE, 0.05, True),
        ("decode.efficiency>=+12%", "efficiency", Operator.AT_LEAST, 0.12, True),
        ("decode.mfu>=-0%", "mfu", Operator.AT_LEAST, 0.0, True),
    ],
)
def test_rules_are_read(text: str, metric: str, operator: Operator, bound: float, relative: bool) -> None:
    rule = parse_rule(text)
    assert (rule.metric, rule.operator, rule.relative) == (metric, operator, relative)
    assert math.isclose(rule.bound, bound)


def test_a_rule_may_name_module_kind_and_layer() -> None:
    rule = parse_rule("decode.decoder.experts.11.busy_ns<=1us")
    assert (rule.stage, rule.words, rule.layer) == ("decode", ("decoder", "experts"), 11)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not STAGE"),
        ("decode.busy_ns", "not STAGE"),
        ("decode.busy_ns<=", "not STAGE"),
        ("decode.busy_ns<=fast", "not STAGE"),
        ("decode.busy_ns=3%", "not STAGE"),
        ("encode.busy_ns<=3%", "no stage"),
        ("decode<=3%", "is no"),
        ("decode.speed<=3%", "no metric"),
        ("decode.busy_ns<=3", "needs a unit"),
        ("decode.busy_ns<=3min", "needs a unit"),
        ("decode.efficiency>=3ms", "has no unit"),
        ("decode.efficiency>=12%", "write 0.12 for the value, or .12% for a change"),
        ("decode.mlp.efficiency>= .5 %", "write 0.005 for the value"),
        ("decode.mfu<=40%", "write 0.4 for the value"),
        ("decode.mbu>3%", "write 0.03 for the value"),
        ("decode.experts.mfu>=1", "one of a stage"),
        ("decode.1.2.busy_ns<=3%", "at most"),
        ("decode.a.b.c.busy_ns<=3%", "at most"),
        ("decode..busy_ns<=3%", "at most"),
        ("decode.busy_ns<=3%; import os", "not STAGE"),
    ],
)
def test_a_rule_that_cannot_be_read_is_a_usage_error_that_quotes_it(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_rule(text)
    assert repr(text) in str(caught.value)
    assert caught.value.exit_code == 2


def test_each_rule_says_from_where_on_it_is_decided_and_holds_itself_to_it() -> None:
    """Oracle: runs whose change is moved across the bound: outside of what is told each is decided, inside none."""
    a = out_of([call(100_000, step=step) for step in range(10)])
    rule = parse_rule("decode.busy_ns<=+3%")
    for busy in range(100_000, 107_000, 500):
        (ruling,) = gate(out_of([call(busy, step=step) for step in range(10)]), a, [rule]).rulings
        apart = ruling.measured - rule.bound
        assert (ruling.outcome == Outcome.INCONCLUSIVE) == (abs(apart) < ruling.resolution - 1e-9), busy
        low, high = (float(text) / 100 for text in re.findall(r"([-+][\d.]+)%", decides_text(ruling)))
        assert (low, high) == pytest.approx((0.03 - ruling.resolution, 0.03 + ruling.resolution), abs=0.0006)


def test_wall_time_is_decided_by_the_scatter_of_several_baselines_where_the_hosts_allowance_leaves_it_open() -> None:
    """Oracle: runs whose idle time scatters by 1 %. One baseline decides nothing at 8 %, five decide both ways."""

    def run(seed: int, idle: float) -> Out:
        host = np.random.default_rng(seed).normal(1, 0.01)
        return out_of([call(50_000, int(idle * host), step=step) for step in range(10)])

    baselines = [run(seed, 1e6) for seed in range(5)]
    rule = [parse_rule("decode.wall_ns<=+8%")]
    for idle, outcome in ((1e6, Outcome.PASS), (1.2e6, Outcome.FAIL)):
        (alone,) = gate(run(9, idle), baselines[0], rule).rulings
        (held,) = gate(run(9, idle), baselines[0], rule, more=baselines[1:]).rulings
        assert (alone.outcome, held.outcome) == (Outcome.INCONCLUSIVE, outcome)
        assert held.resolution < 0.06 < 0.4 < alone.resolution
        assert "5 baselines" in held.reason
    with pytest.raises(UsageError, match="2 baselines"):
        gate(run(9, 1e6), baselines[0], rule, more=baselines[1:2])


def test_several_baselines_rule_equal_runs_wrong_seldom() -> None:
    """Oracle: nothing changed, hosts scatter by 5 %: of 2,000 runs held against +0 %, some 1 % fail by chance."""
    random = np.random.default_rng(5)
    failed = sum(against_several(_changes(random)).low > 0 for _ in range(2000))
    assert failed <= 40


def _changes(random: np.random.Generator) -> list[float]:
    now, before = random.lognormal(0, 0.05), random.lognormal(0, 0.05, 5)
    return [now / one - 1 for one in before.tolist()]


def test_a_run_5_percent_busier_breaks_a_rule_of_3_percent_in_most_pairs_and_an_equal_one_never() -> None:
    """Twenty pairs of each, with the noise of real runs and clocks that differ by up to 1.5 %."""
    rule = [parse_rule("decode.busy_ns<=+3%")]
    outcomes: dict[float, list[str]] = {1.0: [], 1.05: []}
    for factor, told in outcomes.items():
        for seed in range(20):
            clock = 1 + 0.015 * np.sin(seed)
            slow = dict.fromkeys(range(12), factor * clock)
            (ruling,) = gate(noisy_run(2 * seed + 1, slow=slow), noisy_run(2 * seed), rule).rulings
            told.append(str(ruling.outcome))
    assert "fail" not in outcomes[1.0]
    assert outcomes[1.05].count("fail") > 10
    assert "pass" not in outcomes[1.05]
