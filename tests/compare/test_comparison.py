"""Two runs compared: hand-made differences, laws, and how often verdicts are right under the noise of real runs."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from dsocr_nvtx.compare.comparison import Comparison, compare
from dsocr_nvtx.compare.lines import Line
from dsocr_nvtx.compare.outs import Out
from dsocr_nvtx.compare.reasons import change_text
from dsocr_nvtx.compare.verdicts import Verdict
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.report.changes import causes, headline, limits_text
from tests.builders.runs import call, model_call, noisy_run, out_of
from tests.builders.tables import Row

OPPOSITE = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}


def row(found: Comparison, kind: str, layer: int | None = 0, stage: str = "decode", phase: str = "run") -> Line:
    """Return the row of a place."""
    [one] = [
        line
        for line in found.rows
        if (line.kind, line.layer, line.stage, line.phase) == (kind, layer, stage, phase)
    ]  # fmt: skip
    return one


def steady(busy: int, idle: int = 0, steps: int = 10, **more: object) -> Out:
    """Return a run of equal steps: a model call and one decoder row."""
    calls: list[Row] = []
    for step in range(steps):
        calls += [model_call(step, kv_len=100 + step), call(busy, idle, step=step, **more)]  # type: ignore[arg-type]
    return out_of(calls)


def test_a_change_beyond_noise_and_allowance_has_a_verdict_and_adds_up() -> None:
    found = compare(steady(100_000), steady(110_000))
    line = row(found, "mlp")
    assert (line.verdict, line.moved, line.reason) == (Verdict.WORSE, "busy", "busy +10.0%")
    assert (line.busy.a, line.busy.b) == (100_000, 110_000)
    assert line.busy.relative == pytest.approx(0.1)
    assert line.contribution == 10_000
    assert line.parts == (10_000, 0, 0, 0, 0, 0, 0)
    assert row(found, "rest", None).verdict == Verdict.SAME


def test_a_change_below_what_counts_is_the_same() -> None:
    line = row(compare(steady(100_000), steady(102_000)), "mlp")
    assert line.verdict == Verdict.SAME
    assert line.contribution == 2_000


def test_a_change_that_two_runs_of_one_code_may_show_is_inconclusive() -> None:
    """Of 20 us in 10 launches, 1 us is what addresses alone can do: 5 % is no verdict."""
    line = row(compare(steady(20_000, launches=10), steady(21_000, launches=10)), "mlp")
    assert line.verdict == Verdict.INCONCLUSIVE
    assert "noise" in line.reason


def test_idle_and_busy_are_told_apart_and_the_larger_change_decides() -> None:
    found = compare(steady(100_000, 900_000), steady(110_000, 0))
    line = row(found, "mlp")
    assert (line.verdict, line.moved) == (Verdict.BETTER, "idle and busy")
    assert (line.busy.verdict, line.idle.verdict) == (Verdict.WORSE, Verdict.BETTER)
    assert causes(found.stages[0]) == [("idle in host code", -900_000), ("GPU busy time", 10_000)]


def test_a_busy_change_is_found_in_a_row_whose_wall_is_idle_noise() -> None:
    random = np.random.default_rng(3)

    def run(busy: int) -> Out:
        waits = random.lognormal(13, 0.5, 40).astype(int).tolist()
        return out_of([call(busy, wait, step=step) for step, wait in enumerate(waits)])

    line = row(compare(run(100_000), run(105_000)), "mlp")
    assert (line.verdict, line.moved) == (Verdict.WORSE, "busy")


def test_a_run_against_itself_is_the_same_on_every_row() -> None:
    run = noisy_run(1)
    found = compare(run, run)
    assert {line.verdict for line in [*found.rows, *(layer for stage in found.stages for layer in stage.layers)]} == {
        Verdict.SAME
    }
    assert all(line.contribution == 0 for line in found.rows)


def test_a_row_of_one_run_only_is_kept_counted_and_no_verdict() -> None:
    both = [call(1000, step=step) for step in range(10)]
    more = [call(500, 300, step=step, kind="gate") for step in range(10)]
    found = compare(out_of(both), out_of([*both, *more]))
    line = row(found, "gate")
    assert (line.present, line.verdict, line.reason) == ("B", Verdict.INCONCLUSIVE, "only in B")
    assert line.contribution == 800
    assert found.stages[0].total.contribution == 800
    assert row(compare(out_of([*both, *more]), out_of(both)), "gate").present == "A"


def test_a_stage_of_one_run_only_is_kept() -> None:
    decode, vision = call(1000), call(700, stage="vision", kind="neck", module="sam", layer=None)
    found = compare(out_of([decode]), out_of([decode, vision]))
    assert [(stage.stage, stage.total.contribution) for stage in found.stages] == [("vision", 700), ("decode", 0)]
    assert (found.stages[0].total.verdict, found.stages[0].total.reason) == (Verdict.INCONCLUSIVE, "only in B")


def test_steps_pair_by_cache_length_and_what_has_no_partner_is_said() -> None:
    """Attention grows with the cache. The longer run, started later, does the same work where lengths are equal."""

    def run(first: int, steps: int) -> Out:
        calls: list[Row] = []
        for step in range(steps):
            calls.append(model_call(step, kv_len=first + step))
            calls.append(call(10 * (first + step), step=step, kind="attention", kv_len=first + step))
        return out_of(calls)

    found = compare(run(1000, 64), run(1020, 300))
    line = row(found, "attention")
    assert (line.verdict, line.steps, line.busy.change) == (Verdict.SAME, 44, 0)
    assert found.stages[0].notes == [
        "decode: 44 steps compared, by equal KV lengths 1020 to 1063; A has 64 steps, B has 300"
    ]


def test_rows_that_read_caches_of_other_lengths_are_not_judged_but_others_are() -> None:
    def run(first: int) -> Out:
        calls: list[Row] = []
        for step in range(10):
            calls.append(model_call(step, kv_len=first + step))
            calls.append(call(20 * first, step=step, kind="attention", kv_len=first + step))
            calls.append(call(100_000, step=step, kind="experts"))
        return out_of(calls)

    found = compare(run(1000), run(2000))
    assert (row(found, "attention").verdict, row(found, "attention").reason) == (
        Verdict.INCONCLUSIVE,
        "KV lengths differ",
    )
    assert row(found, "experts").verdict == Verdict.SAME


def test_runs_of_other_batches_are_told_per_token_and_not_judged() -> None:
    def run(batch: int) -> Out:
        calls: list[Row] = []
        for step in range(10):
            calls.append(model_call(step, kv_len=100 + step, batch=batch))
            calls.append(call(32_000, step=step, batch=batch))
        return out_of(calls)

    found = compare(run(1), run(16))
    line = row(found, "mlp")
    assert (line.unit, line.busy.a, line.busy.b) == ("token", 32_000, 2_000)
    assert (line.verdict, line.reason) == (Verdict.INCONCLUSIVE, "shapes differ: 1x1 against 16x1")
    assert line.contribution == -30_000


def test_what_was_captured_into_a_graph_is_apart_and_spread_over_the_steps() -> None:
    eager = [call(50_000, 400_000, step=step) for step in range(10)]
    graph = [call(0, 5_000_000, origin="captured")]
    graph += [call(50_000, 0, step=step, origin="replayed") for step in range(10)]
    found = compare(out_of(eager), out_of(graph))
    assert row(found, "mlp").verdict == Verdict.BETTER
    once = row(found, "mlp", phase="capture")
    assert (once.present, once.contribution) == ("B", 500_000)
    assert causes(found.stages[0]) == [("capturing CUDA graphs", 500_000), ("idle in host code", -400_000)]
    assert any("decode modes differ" in line for line in found.warnings)


def test_eager_against_graph_decode_finds_the_host() -> None:
    found = compare(noisy_run(1), noisy_run(2, host=0.01))
    assert found.stages[0].total.verdict == Verdict.BETTER
    assert causes(found.stages[0])[0][0] == "idle in host code"
    assert {line.idle.verdict for line in found.rows} == {Verdict.BETTER}


def test_what_moves_all_layers_alike_with_the_same_kernels_is_not_blamed_on_any() -> None:
    """Addresses make small kernels 5 % slower for a whole process; one layer that is 5 % slower still stands out."""

    def run(times: list[int]) -> Out:
        return out_of(
            [
                call(time + step % 3 * 32, step=step, kind="norm", layer=layer, launches=16)
                for layer, time in enumerate(times)
                for step in range(30)
            ]
        )

    found = compare(run([23_000] * 8), run([24_200] * 7 + [25_400]))
    verdicts = [row(found, "norm", layer).verdict for layer in range(8)]
    assert verdicts == [Verdict.INCONCLUSIVE] * 7 + [Verdict.WORSE]
    assert "its 7 peers +5.1%" in row(found, "norm", 0).reason


def test_one_layer_that_stands_still_while_its_peers_drift_is_told() -> None:
    def run(times: list[int]) -> Out:
        return out_of(
            [
                call(time + step % 3 * 32, step=step, kind="norm", layer=layer, launches=16)
                for layer, time in enumerate(times)
                for step in range(30)
            ]
        )

    line = row(compare(run([23_000] * 8), run([21_850] * 7 + [23_000])), "norm", 7)
    assert (line.verdict, line.against_peers) == (Verdict.WORSE, True)


def test_a_layer_that_a_change_left_out_is_not_blamed() -> None:
    """Eleven layers got 30 % faster, more than any drift: they are better, and the twelfth is as it was."""

    def run(times: list[int]) -> Out:
        return out_of(
            [
                call(time + step % 3 * 32, step=step, kind="norm", layer=layer, launches=4)
                for layer, time in enumerate(times)
                for step in range(30)
            ]
        )

    found = compare(run([23_000] * 8), run([16_000] * 7 + [23_100]))
    verdicts = [row(found, "norm", layer).verdict for layer in range(8)]
    assert verdicts == [Verdict.BETTER] * 7 + [Verdict.SAME]


def test_noise_that_could_hide_a_change_is_never_called_the_same() -> None:
    random = np.random.default_rng(4)
    a, b = (
        out_of([call(time, step=step) for step, time in enumerate(random.normal(100_000, 20_000, 12).astype(int))])
        for _ in range(2)
    )
    line = row(compare(a, b), "mlp")
    assert line.busy.half > 0.03 * line.busy.base
    assert line.verdict == Verdict.INCONCLUSIVE


def test_a_row_without_peers_that_addresses_move_a_lot_is_never_called_the_same() -> None:
    """Of 20 us in 10 launches, drift may hide 5 %; only equal times are the same."""
    small = row(compare(steady(20_000, launches=10), steady(20_200, launches=10)), "mlp")
    large = row(compare(steady(200_000, launches=10), steady(202_000, launches=10)), "mlp")
    assert (small.verdict, large.verdict) == (Verdict.INCONCLUSIVE, Verdict.SAME)


def test_two_runs_of_one_code_have_few_false_verdicts() -> None:
    """Oracle: nothing changed, so every better or worse is false. At most 5 % are allowed; seeded."""
    counts: Counter[str] = Counter()
    busy: Counter[str] = Counter()
    for seed in range(8):
        found = compare(noisy_run(100 + seed), noisy_run(200 + seed))
        counts.update(found.counts())
        busy.update(line.busy.verdict for line in found.rows)
    assert (counts["better"] + counts["worse"]) / counts.total() <= 0.02
    assert busy["same"] / busy.total() >= 0.5


def test_a_layer_slowed_by_5_percent_is_found() -> None:
    """Oracle: the layer that was slowed. Its sum is worse in nine trials of ten, and none is inconclusive; seeded."""
    layers: Counter[Verdict] = Counter()
    rows: Counter[Verdict] = Counter()
    for seed in range(20):
        found = compare(noisy_run(300 + seed), noisy_run(400 + seed, slow={seed % 12: 1.05}))
        layers.update(layer.busy.verdict for layer in found.stages[0].layers if layer.layer == seed % 12)
        rows.update(
            line.verdict for line in found.rows if line.layer == seed % 12 and line.kind in ("attention", "experts")
        )
    assert layers == {Verdict.WORSE: 20}
    assert rows[Verdict.WORSE] / rows.total() >= 0.9
    assert Verdict.BETTER not in rows


def test_of_swapped_runs_every_verdict_and_change_is_the_opposite() -> None:
    a, b = noisy_run(1), noisy_run(2, slow={3: 1.08}, host=0.2)
    for one, two in zip(compare(a, b).rows, compare(b, a).rows, strict=True):
        assert two.verdict == OPPOSITE.get(one.verdict, one.verdict)
        assert two.parts == tuple(-part for part in one.parts)
        assert two.busy.change == pytest.approx(-one.busy.change)
        assert two.busy.verdict == OPPOSITE.get(one.busy.verdict, one.busy.verdict)


calls_of = st.lists(
    st.builds(
        call,
        st.integers(0, 100_000),
        st.integers(0, 1_000_000),
        step=st.integers(0, 12),
        kind=st.sampled_from(["mlp", "gate"]),
        layer=st.sampled_from([0, 1, None]),
        stage=st.sampled_from(["decode", "prefill"]),
        cause=st.sampled_from(["host", "launch", "sync"]),
        origin=st.sampled_from(["call", "captured"]),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(calls_of, calls_of, st.randoms(use_true_random=False))
def test_contributions_add_up_and_order_does_not_matter(a: list[Row], b: list[Row], random: object) -> None:
    found = compare(out_of(a), out_of(b))
    for stage in found.stages:
        assert sum(line.contribution for line in stage.rows) == stage.total.contribution
        assert sum(ns for _, ns in causes(stage)) == stage.total.contribution
        pair = stage.pair
        exact = [
            side.values[:6].sum() / max(side.units, 1) + side.captured[:6].sum() / max(side.all_steps, 1)
            for side in (pair.a, pair.b)
        ]
        assert stage.total.contribution == pytest.approx(exact[1] - exact[0], abs=0.51)
    shuffled = list(b)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = compare(out_of(a), out_of(shuffled))
    assert [evolve(line) for line in again.rows] == found.rows
    swapped = compare(out_of(b), out_of(a))
    for one, two in zip(found.rows, swapped.rows, strict=True):
        assert two.verdict == OPPOSITE.get(one.verdict, one.verdict)
        assert two.parts == tuple(-part for part in one.parts)


@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize("idle", [1_010_000, 1_160_000, 1_500_000, 1_600_000, 4_000_000])
def test_idle_time_that_too_few_steps_had_is_the_same_only_where_it_is_equal(idle: int, steps: int) -> None:
    """Nothing repeats, so nothing bounds the noise; the reader is told so beside the verdict."""
    a = steady(100_000, 1_000_000, steps=steps)
    found = compare(a, steady(100_000, idle, steps=steps))
    line, total = row(found, "mlp"), found.stages[0].total
    for one in (line, total, row(compare(steady(100_000, idle, steps=steps), a), "mlp")):
        assert (one.verdict, one.wall.verdict, one.busy.verdict) == (Verdict.INCONCLUSIVE,) * 2 + (Verdict.SAME,)
    times = "once" if steps == 1 else f"{steps} times"
    assert line.reason == f"busy the same; idle {idle / 1e6 - 1:+.1%}: ran {times}, so no noise bound"
    assert f"decode is inconclusive: busy the same; idle {idle / 1e6 - 1:+.1%}" in headline(found.stages[0])
    assert compare(a, a).counts()["same"] == 2


def test_idle_time_that_ran_once_is_worse_beyond_all_that_is_allowed_for() -> None:
    assert row(compare(steady(100_000, 1_000_000, steps=1), steady(100_000, 200_000_000, steps=1)), "mlp").verdict == (
        Verdict.WORSE
    )


def test_the_percentage_shown_is_the_one_that_counts() -> None:
    """Steps without noise or idle time: up to +3 % of A is the same, more is not; so is the fall that undoes it."""
    for busy, verdict in ((1_029_000, Verdict.SAME), (1_045_000, Verdict.WORSE)):
        assert row(compare(steady(1_000_000), steady(busy)), "mlp").verdict == verdict
    assert row(compare(steady(1_029_000), steady(1_000_000)), "mlp").verdict == Verdict.SAME
    found = compare(steady(1), steady(1))
    assert "counts as a change: +3% or -3% of busy time, +50% or -33% of idle time" in limits_text(found)


@pytest.mark.parametrize("idle", [1_449_000, 1_100_000, 900_000, 690_000])
def test_idle_time_within_what_the_host_is_allowed_is_open_and_never_the_same(idle: int) -> None:
    """+44.9 % without any noise of steps may be the host's, and may be not: that it is the same is not known."""
    found = compare(steady(100_000, 1_000_000), steady(100_000, idle))
    line = row(found, "mlp")
    assert (line.idle.verdict, line.wall.verdict, line.verdict) == (Verdict.INCONCLUSIVE,) * 3
    assert "host" in line.reason
    assert found.stages[0].total.verdict == Verdict.INCONCLUSIVE


def test_graph_capture_that_differs_is_never_the_same() -> None:
    def run(idle: int) -> Out:
        ran = [call(50_000, step=step, origin="replayed") for step in range(10)]
        return out_of([call(0, idle, origin="captured"), *ran])

    a = run(5_000_000)
    assert row(compare(a, run(5_100_000)), "mlp", phase="capture").verdict == Verdict.INCONCLUSIVE
    assert row(compare(a, a), "mlp", phase="capture").verdict == Verdict.SAME


def test_an_odd_step_is_told_beside_the_typical_one_that_the_verdict_rests_on() -> None:
    steps = [call(100_000, 1_000_000, step=step) for step in range(20)]
    odd = [call(100_000, 1_000_000 + 100_000_000 * (step == 0), step=step) for step in range(20)]
    line = row(compare(out_of(steps), out_of(odd)), "mlp")
    assert (line.idle.share, line.idle.relative, line.verdict) == (5.0, 0.0, Verdict.SAME)
    assert change_text("idle", line.idle) == "idle +500.0% (+0.0% in a typical step)"
    assert change_text("busy", line.busy) == "busy +0.0%"
    hiccup = out_of([call(100_000, 20_000_000 * (step == 0), step=step) for step in range(20)])
    assert change_text("idle", row(compare(hiccup, out_of(steps)), "mlp").idle) == (
        "idle +0.0% (+1,000.0 us in a typical step)"
    )
    assert change_text("idle", row(compare(steady(100_000), steady(100_000, 7_000)), "mlp").idle) == (
        "idle +7.0 us, none before"
    )


def test_levels_do_not_mix() -> None:
    coarse = out_of([call(1)], about={"level": "layer"})
    with pytest.raises(Refused, match=r"level op, but .* level layer"):
        compare(out_of([call(1)]), coarse)


@pytest.mark.parametrize("name", ["device", "roofs", "tool", "dsocr_nvtx", "schema_version", "experts"])
def test_what_else_differs_is_said(name: str) -> None:
    other = out_of([call(1)], about={name: "another"})
    [line] = compare(out_of([call(1)]), other).warnings
    assert "another" in line


def test_processes_are_summed_and_said() -> None:
    two = [call(1000, step=step, pid=pid) for step in range(10) for pid in (1, 2)]
    one = [call(2000, step=step) for step in range(10)]
    found = compare(out_of(two), out_of(one))
    assert row(found, "mlp").busy.a == 2000
    assert found.warnings == ["2 against 1 processes and devices; times are sums over all of them"]


def test_tables_without_an_origin_and_without_rows_are_compared() -> None:
    run = out_of([call(1000)])
    old = evolve(run, ranges=run.ranges.drop_columns(["origin", "device"]))
    assert compare(old, run).counts() == {"better": 0, "worse": 0, "same": 1, "inconclusive": 0}
    empty = evolve(run, ranges=run.ranges.slice(0, 0))
    assert compare(empty, empty).stages == []
    assert row(compare(empty, run), "mlp").present == "B"


def test_captures_of_other_steps_pair_by_order() -> None:
    a = out_of([call(1000, step=step) for step in range(10)])
    b = out_of([call(1000, step=step) for step in range(32, 42)])
    assert compare(a, b).counts()["same"] == 1


def test_a_row_without_time_is_the_same() -> None:
    assert compare(steady(0), steady(0)).counts() == {"better": 0, "worse": 0, "same": 2, "inconclusive": 0}


def test_the_table_has_units_and_every_row() -> None:
    from dsocr_nvtx.compare.tables import comparison_table
    from dsocr_nvtx.schema.comparison import COMPARISON

    found = compare(noisy_run(1), noisy_run(2))
    table = comparison_table(found)
    assert len(table) == len(found.rows)
    assert table.schema.equals(COMPARISON)
    assert all(field.metadata[b"description"] for field in table.schema)
    assert table.schema.metadata[b"level"] == b"op"
    total = sum(stage.total.contribution for stage in found.stages)
    assert pa.compute.sum(table["contribution_ns"]).as_py() == total


def test_a_stage_of_which_no_step_could_be_paired_is_not_the_same() -> None:
    captured = out_of([call(1000, 50, origin="captured")])
    ran = out_of([call(1000, 50, step=step) for step in range(12)])
    for a, b in ((captured, ran), (ran, captured)):
        [stage] = compare(a, b).stages
        assert (stage.total.verdict, stage.total.reason) == (Verdict.INCONCLUSIVE, "no step stands beside another")
        assert {row.verdict for row in stage.rows} == {Verdict.INCONCLUSIVE}
    [itself] = compare(captured, captured).stages
    assert itself.total.verdict == Verdict.SAME
