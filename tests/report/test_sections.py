"""Sections of the review page by hand: advice, budget columns, caveats."""

from attrs import evolve

from dsocr_nvtx.join.stalls import Stall
from dsocr_nvtx.report.advice import advice
from dsocr_nvtx.report.caveats import caveats
from dsocr_nvtx.report.drawings import heat_maps
from dsocr_nvtx.report.sections import stall_lines
from dsocr_nvtx.roofline.evidence import stage_steps
from dsocr_nvtx.schema.tables import MEASURED
from tests.builders.tables import filled
from tests.report.test_report_terminal import ACCOUNTS, MS
from tests.roofline.test_roofline_points import points, timed

RUNGS = [
    {"rung": "now", "step_ns": 10e6, "speedup": 1.0}, {"rung": "no_stall", "step_ns": 5e6, "speedup": 2.0},
    {"rung": "graph", "step_ns": 4e6, "speedup": 2.5}, {"rung": "fused", "step_ns": 1e6, "speedup": 10.0},
]  # fmt: skip


PLANNED = "cudnn_generated_fort_native_sdpa_sm80"


def stall(ns: int, name: str = "gemm", path: str = "decoder.0.attention") -> Stall:
    return Stall(device=0, start_ns=0, ns=ns, next_operation=name, pid=1, tid=1, path=path, stage="decode", step=3)


def test_what_helps_a_stage_that_waits_is_launching_less_and_a_stage_that_works_is_fusing() -> None:
    host = list(advice({"stage": "decode", "bound": "host"}, RUNGS, ()))
    assert host == [
        "if the host never stalled: 5.000 ms a step, 2.0x faster",
        "if launches were free, as in a CUDA graph: 4.000 ms a step, 2.5x faster",
    ]
    busy = list(advice({"stage": "decode", "bound": "inefficient"}, RUNGS, ()))
    assert busy == ["and tax kernels fused away: 1.000 ms a step, 10.0x faster"]


def test_a_stall_with_a_known_remedy_names_it_where_it_is() -> None:
    plans = (stall(5, PLANNED),)
    assert list(advice({"stage": "decode", "bound": "host"}, (), (*plans, stall(2_000_000, PLANNED)))) == [
        "cuDNN plans its attention anew for each KV length: 2.00 ms in 2 stalls; "
        "run --no-cudnn-sdpa, or --decode static or graph"
    ]
    assert not list(advice({"stage": "prefill", "bound": "host"}, (), plans))
    assert not list(advice({"stage": "decode", "bound": "host", "device": 1}, (), plans)), "another GPU's"


def test_a_stage_has_the_rungs_of_its_own_process_and_gpu() -> None:
    rungs = [{**rung, "pid": pid, "device": 0, "stage": "decode"} for pid in (1, 2) for rung in RUNGS]
    rungs = [{**rung, "step_ns": 9e6} if rung["pid"] == 1 else rung for rung in rungs]
    stage = {"stage": "decode", "bound": "unfused", "pid": 2, "device": 0}
    assert list(advice(stage, rungs, ())) == ["and tax kernels fused away: 1.000 ms a step, 10.0x faster"]


def test_stalls_of_one_place_stand_together_longest_sum_first() -> None:
    accounts = evolve(ACCOUNTS, stalls=(stall(5), stall(9, path="lm_head"), stall(6), stall(7, "copy")))
    lines = stall_lines(accounts)
    assert [(line.ns, line.count, line.where) for line in lines] == [
        (11, 2, "decoder.0.attention"), (9, 1, "lm_head"), (7, 1, "decoder.0.attention"),
    ]  # fmt: skip


def test_idle_time_that_no_stage_has_is_a_caveat_once_it_is_much() -> None:
    def told(none: int) -> bool:
        device = evolve(ACCOUNTS.devices[0], idle_ns={"host": 170 * MS - none, "none": none})
        found = caveats(points([timed(0, 1)]), evolve(ACCOUNTS, devices=(device,)))
        return any("idle outside every range" in one.text for one in found)

    assert (told(14 * MS), told(16 * MS)) == (False, True)  # of 300 ms


def test_steps_are_those_of_one_process_on_one_device() -> None:
    rows = [timed(step, 5, 5, pid=pid, step=step, kv_len=100 + step) for pid in (1, 2) for step in range(3)]
    found = points(rows).stages.to_pylist()
    for stage in found:
        steps = stage_steps(filled(MEASURED, rows), stage)
        assert (steps.busy_ns + steps.idle_ns).tolist() == [10, 10, 10]
        assert steps.kv_len.tolist() == [100, 101, 102]
    assert [stage["median_step_ns"] for stage in found] == [10, 10]


def test_colours_of_the_heat_map_are_logarithmic() -> None:
    """Rows differ by powers of ten: on a linear scale all but the largest would look alike."""
    rows = [
        {"stage": "decode", "module": "decoder", "layer": layer, "kind": "mlp", "lost_ns": lost}
        for layer, lost in enumerate((10**9, 10**8, 10**7, 10**6, 10**3, 0, -5))
    ]  # fmt: skip
    (heat,) = heat_maps(rows)
    cells = [cell for _, (cell,) in heat.lines if cell is not None]
    assert [cell.heat for cell in cells] == [100.0, 66.7, 33.3, 0.0, 0.0, 0.0, 0.0]
