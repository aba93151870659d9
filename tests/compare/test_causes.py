"""What made the difference, by name: hand-made runs with one thing changed, and runs in which nothing did."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from attrs import evolve

from dsocr_nvtx.compare.cause import Cause
from dsocr_nvtx.compare.cells import Cell
from dsocr_nvtx.compare.comparison import compare
from dsocr_nvtx.compare.explain import What, explain, family
from dsocr_nvtx.compare.outs import Out
from dsocr_nvtx.compare.verdicts import Verdict
from dsocr_nvtx.join.stalls import Stall, StallCall
from dsocr_nvtx.report.causes import Sort, called, cause_values, headed, opened, ranked
from dsocr_nvtx.schema.summaries import HOST_CALLS
from dsocr_nvtx.schema.tables import KERNELS
from tests.builders.runs import call, out_of
from tests.builders.tables import Row, filled

LAYERS, STEPS = 6, 20
NVJET, ADD = "nvjet_sm90_tst_16x64_64x16_4x1_v_bz_TNN", "void at::vectorized_elementwise_kernel<4, at::add<float>>(T)"
KERNELS_OF: Mapping[str, Mapping[str, tuple[int, float]]] = {
    "attention": {NVJET: (4, 5000.0), "flash_fwd": (1, 20_000.0), ADD: (2, 2000.0)},
    "experts": {NVJET: (3, 6000.0), "gather": (2, 10_000.0), "nvjet_sm90_tst_64x8_64x16_v": (2, 4000.0)},
    "norm": {ADD: (3, 1500.0)},
}
"""Launches of each kernel in a row, and ns of one."""
Change = Callable[[str, int, str, int, float], tuple[int, float]]
Waits = Callable[[str, int, int], int]


def as_is(_kind: str, _layer: int, _name: str, count: int, ns: float) -> tuple[int, float]:
    """Leave launches and their time as they are."""
    return count, ns


def run(
    seed: int = 1, change: Change = as_is, waits: Waits = lambda kind, layer, step: 20_000, clock: float = 1.0,
    extra: Mapping[str, tuple[int, float]] | None = None,
) -> Out:  # fmt: skip
    """Return a run whose launches scatter by 1 %; ``extra`` kernels run in the experts of every layer."""
    random = np.random.default_rng(seed)
    calls: list[Row] = []
    kernels: list[Row] = []
    for step in range(STEPS):
        for layer in range(LAYERS):
            for kind, names in KERNELS_OF.items():
                begin = len(kernels)
                for name, (count, ns) in {**names, **(extra or {} if kind == "experts" else {})}.items():
                    told, each = change(kind, layer, name, count, ns)
                    for _ in range(told):
                        length = int(each * clock * (1 + random.normal(0, 0.01)))
                        kernels.append({"event_id": len(calls), "name": name, "start_ns": 0, "end_ns": length})
                busy = sum(int(str(one["end_ns"])) for one in kernels[begin:])
                launches = len(kernels) - begin
                wait = waits(kind, layer, step)
                calls.append(call(busy, wait, step=step, kind=kind, layer=layer, launches=launches))
    return evolve(out_of(calls), kernels=filled(KERNELS, kernels))


def causes(a: Out, b: Out) -> list[Cause]:
    """Return the causes of the one stage of two runs."""
    [stage] = compare(a, b).stages
    return stage.causes


def test_three_kernels_are_the_first_three_that_are_named_and_nothing_else_is() -> None:
    factors = {NVJET: 2.0, "gather": 0.2, "flash_fwd": 1.6}
    found = causes(run(1), run(2, lambda kind, layer, name, count, ns: (count, ns * factors.get(name, 1.0))))
    assert [(one.name, one.sort, one.what, one.verdict) for one in found] == [
        (NVJET, "kernel", What.NAME, Verdict.WORSE),
        ("gather", "kernel", What.NAME, Verdict.BETTER),
        ("flash_fwd", "kernel", What.NAME, Verdict.WORSE),
    ]
    nvjet = found[0]
    assert nvjet.factor == pytest.approx(2.0, abs=0.02)
    assert nvjet.cost == pytest.approx(6 * (4 * 5000 + 3 * 6000), rel=0.02)
    assert (nvjet.a_count, nvjet.b_count) == (42, 42)
    assert [(one.kind, one.layers) for one in nvjet.places] == [
        ("attention", (0, 1, 2, 3, 4, 5)), ("experts", (0, 1, 2, 3, 4, 5)),
    ]  # fmt: skip


def test_variants_that_changed_alike_are_one_family_and_one_that_did_alone_is_itself() -> None:
    [both] = causes(run(1), run(2, lambda kind, layer, name, count, ns: (count, ns * (1.5 if "nvjet" in name else 1))))
    assert (both.what, both.title) == (What.FAMILY, "nvjet_sm90_tst*")
    [one] = causes(run(1), run(2, lambda kind, layer, name, count, ns: (count, ns * (1.5 if "64x8" in name else 1))))
    assert (one.what, one.title) == (What.NAME, "nvjet_sm90_tst_64x8_64x16_v")
    assert family("nvjet_sm90_tst_16x64_64x16_4x1_v_bz_TNN") == "nvjet_sm90_tst"
    assert family("memcpy host to device") == "memcpy host to device"


@pytest.mark.parametrize("clock", [0.985, 1.0, 1.015])
def test_a_layer_slower_by_5_percent_is_the_cause_whatever_the_clocks(clock: float) -> None:
    slow = run(2, lambda kind, layer, name, count, ns: (count, ns * (1.05 if layer == 3 else 1)), clock=clock)
    [layer] = causes(run(1), slow)
    assert (layer.sort, layer.what, layer.title) == ("rows", What.LAYER, "decoder.3")
    assert layer.factor == pytest.approx(1.05 * clock, abs=0.01)
    assert {one.name for one in layer.kernels} >= {NVJET, "gather", "flash_fwd"}


def test_layers_that_changed_alike_are_told_together() -> None:
    slow = run(2, lambda kind, layer, name, count, ns: (count, ns * (1.4 if layer in (1, 4) else 1)))
    [both] = causes(run(1), slow)
    assert (both.title, both.layers) == ("decoder x2", (1, 4))
    assert both.cost == pytest.approx(2 * 0.4 * (20_000 + 20_000 + 4000 + 18_000 + 20_000 + 8000 + 4500), rel=0.05)


def test_equal_rows_of_all_layers_are_one_cause() -> None:
    slow = run(2, lambda kind, layer, name, count, ns: (count, ns * (1.46 if kind == "attention" else 1)))
    [rows] = causes(run(1), slow)
    assert rows.title == "decoder attention x6"
    assert headed(rows).startswith("decoder attention x6: x1.4")


@pytest.mark.parametrize("turned", [False, True])
def test_a_new_kernel_is_new_and_one_that_is_missing_gone(turned: bool) -> None:
    a, b = run(1), run(2, extra={"planted_kernel": (2, 4000.0)})
    [found] = causes(b, a) if turned else causes(a, b)
    assert found.name == "planted_kernel"
    assert found.cost == pytest.approx((-1 if turned else 1) * 6 * 8000, rel=0.02)
    assert f"planted_kernel: {'gone' if turned else 'new'}, " in headed(found)
    assert ("12 > 0" if turned else "0 > 12") in opened(found)


def test_more_launches_of_equal_length_are_told_as_launches() -> None:
    [found] = causes(run(1), run(2, lambda kind, layer, name, n, ns: (n * 2 if name == "gather" else n, ns)))
    assert "12 > 24 launches of " in opened(found)


def test_a_drift_of_all_clocks_is_no_kernels_doing() -> None:
    for seed in range(4):
        assert causes(run(2 * seed), run(2 * seed + 1, clock=1.015)) == []


def test_a_slower_stage_is_told_as_every_kernel() -> None:
    [found] = causes(run(1), run(2, clock=1.06))
    assert found.title == "every kernel"


def test_a_stall_in_one_step_is_found_with_its_calls() -> None:
    def waits(kind: str, layer: int, step: int) -> int:
        return 40_000_000 if (kind, layer, step) == ("attention", 2, 7) else 20_000

    stall = Stall(
        device=0, start_ns=0, ns=40_000_000, next_operation=NVJET, path="decoder.2.attention", stage="decode", step=7,
        calls=(StallCall("cuLibraryLoadData", 3, 39_000_000),),
    )  # fmt: skip
    [found] = causes(run(1), evolve(run(2, waits=waits), stalls=(stall,)))
    assert (found.title, found.sort) == ("decoder.2 attention: stall in step 7", "stall")
    assert found.cost == pytest.approx((40_000_000 - 20_000) / STEPS)
    assert "3x cuLibraryLoadData 39.00 ms" in opened(found)
    [gone] = causes(run(2, waits=waits), run(1))
    assert (gone.verdict, gone.cost) == (Verdict.BETTER, -found.cost)


def test_a_row_that_waits_longer_in_every_step_is_an_idle_cause_and_no_stall() -> None:
    def waits(kind: str, layer: int, step: int) -> int:
        return 9_000_000 if (kind, layer) == ("experts", 4) else 20_000

    [found] = causes(run(1), run(2, waits=waits))
    assert (found.sort, found.module, found.kind, found.layers) == ("idle", "decoder", "experts", (4,))
    assert "in host code" in opened(found)


def test_a_run_against_itself_has_no_cause_and_the_other_way_round_all_are_opposite() -> None:
    a, b = run(1), run(2, lambda kind, layer, name, count, ns: (count, ns * (1.5 if name == "gather" else 1)))
    assert causes(a, a) == []
    [one], [other] = causes(a, b), causes(b, a)
    assert (one.name, one.cost, one.verdict) == (other.name, -other.cost, Verdict.WORSE)
    assert other.verdict == Verdict.BETTER


def test_a_join_without_kernels_names_rows() -> None:
    slow = run(2, lambda kind, layer, name, count, ns: (count, ns * (1.3 if kind == "experts" else 1)))
    [found] = causes(evolve(run(1), kernels=None), evolve(slow, kernels=None))
    assert found.title == "decoder experts x6"


def test_stages_and_causes_are_ranked_and_the_order_can_be_chosen() -> None:
    factors = {NVJET: 1.3, "gather": 3.0}
    found = compare(run(1), run(2, lambda kind, layer, name, count, ns: (count, ns * factors.get(name, 1.0))))
    orders = {sort: [one.name for _, told in ranked(found, sort=sort) for one in told] for sort in Sort}
    assert orders[Sort.COST] == ["gather", NVJET] == orders[Sort.FACTOR] == orders[Sort.NAME]
    assert ranked(found, stage="vision") == []
    values = cause_values(found.stages[0].causes[0])
    assert (values["name"], values["sort"], values["verdict"]) == ("gather", "kernel", "worse")


def test_what_explains_nothing_more_is_not_proposed_and_refused_sets_are_passed_over() -> None:
    """Without noise: of two changed cells that share a name and nothing else, the name explains both at once."""
    cells = [cell for layer in range(3) for cell in _cells(layer)]
    a = np.full(len(cells), 100.0)
    b = np.where([cell.name == "x" for cell in cells], 150.0, 100.0)
    [found] = explain(cells, a, b, lambda _: True, families=True)
    assert (found.what, found.name, found.factor, found.cost) == (What.NAME, "x", 1.5, 150.0)
    assert explain(cells, a, b, lambda _: False, families=True) == []


def _cells(layer: int) -> list[Cell]:
    return [Cell("decoder", "mlp", layer, "x"), Cell("decoder", "mlp", layer, "y"), Cell("decoder", "norm", layer, "y")]


def test_a_host_slower_by_more_than_is_allowed_for_is_one_cause_and_what_waits_beyond_that_another() -> None:
    def waits(beyond: int) -> Waits:
        return lambda kind, layer, step: 80_000_000 * (beyond if layer == 2 else 1)

    [host] = causes(run(1), run(2, waits=waits(1)))
    assert host.title == "idle (host) everywhere"
    both = causes(run(1), run(2, waits=waits(5)))
    assert [one.title for one in both] == ["idle (host) everywhere", "decoder.2: idle"]
    assert both[1].cost == pytest.approx(3 * 4 * 80e6)


def calling(calls: Mapping[str, tuple[int, int]], seed: int) -> Out:
    """Return a run in which CUDA functions are called so often a step, so long together."""
    random = np.random.default_rng(seed)
    rows: list[Row] = [
        {"stage": "decode", "step": step, "call": name, "calls": count, "total_ns": int(ns * random.lognormal(0, 0.1))}
        for step in range(STEPS)
        for name, (count, ns) in calls.items()
    ]
    return evolve(run(seed), host_calls=filled(HOST_CALLS, rows))


def test_calls_of_the_host_that_are_new_gone_more_or_slower_are_told_and_others_are_not() -> None:
    launch = {"cudaLaunchKernel": (100, 700_000)}
    a = calling({**launch, "cudaStreamSynchronize": (1, 100_000), "cudaEventRecord": (4, 4000)}, 1)
    b = calling({**launch, "cudaStreamSynchronize": (1, 3_000_000), "cudaMalloc": (12, 2_400_000)}, 2)
    [stage] = compare(a, b).stages
    assert [(one.name, one.verdict, one.a_count, one.b_count) for one in stage.calls] == [
        ("cudaStreamSynchronize", Verdict.WORSE, 1, 1),
        ("cudaMalloc", Verdict.WORSE, 0, 12),
        ("cudaEventRecord", Verdict.INCONCLUSIVE, 4, 0),
    ]
    assert called(stage.calls[1]).startswith("cudaMalloc: 0 > 12 calls a step of 0.00 > 2")
    assert stage.causes == []
    [same] = compare(a, a).stages
    assert same.calls == []
    [older] = compare(a, evolve(b, host_calls=None)).stages
    assert older.calls == []
