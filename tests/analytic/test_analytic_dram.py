"""The script that holds the model against DRAM counters: what it measures, reads and says, as far as a CPU goes."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dsocr_nvtx.schema.payload import PAYLOAD_FIELDS

ROOT = Path(__file__).parents[2]


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "reports" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


table: Any = _script("dram_table")
dram: Any = _script("dram_check")

RAW = """==PROF== Connected to process 7
"ID","Process ID","Kernel Name","dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum"
"","","","byte","byte","ns"
"0","7","at::cuda::<unnamed>::spin_kernel(long)","32","0","1500"
"1","7","gemm, one","1,000","20","5000"
"2","7","norm","64","64","1000"
"3","7","at::cuda::<unnamed>::spin_kernel(long)","0","0","1500"
"4","7","gemm, two","900.0","100","5000"
"""
DETAILS = """"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","spin_kernel","","dram__bytes_read.sum","byte","32"
"0","spin_kernel","","dram__bytes_write.sum","byte","0"
"1","gemm","","dram__bytes_read.sum","byte","1,000"
"1","gemm","","dram__bytes_write.sum","byte","20"
"""


def _case(path: str = "lm_head", stage: str = "decode", step: int = 2, **values: int) -> Any:
    return table.Case(path, stage, step, 0, {name: values.get(name, 0) for name in PAYLOAD_FIELDS}, None)


def test_a_log_is_read_and_split_at_the_markers() -> None:
    parts = table.split(table.read_kernels(RAW.splitlines(keepends=True)), 2)
    assert [[kernel.name for kernel in part] for part in parts] == [["gemm, one", "norm"], ["gemm, two"]]
    assert [sum(kernel.moved for kernel in part) for part in parts] == [1148, 1000]
    (part,) = table.split(table.read_kernels(DETAILS.splitlines(keepends=True)), 1)
    assert (part[0].read, part[0].written) == (1000, 20)


def test_a_log_of_another_run_is_refused() -> None:
    with pytest.raises(SystemExit, match="3 ranges were run and 2 are in the ncu log"):
        table.split(table.read_kernels(RAW.splitlines(keepends=True)), 3)
    with pytest.raises(SystemExit, match="no kernel in the ncu log"):
        table.read_kernels(["==ERROR== no permission\n"])


@pytest.mark.parametrize(
    ("measured", "cost", "verdict"),
    [
        (1050, {"weight_bytes": 950, "activation_bytes": 50}, "holds"),
        (1101, {"weight_bytes": 950, "activation_bytes": 50}, "not within 10% of lower bound"),
        (899, {"kv_read_bytes": 950, "activation_bytes": 50}, "not within 10% of lower bound"),
        (99, {"weight_bytes": 100, "activation_bytes": 900, "op_bytes": 3000}, "below cold bytes"),
        (100, {"weight_bytes": 100, "activation_bytes": 900, "op_bytes": 3000}, "holds"),
        (600, {"weight_bytes": 100, "activation_bytes": 1500, "op_bytes": 3000}, "holds"),
        (599, {"weight_bytes": 100, "activation_bytes": 1500, "op_bytes": 3000}, "below cold bytes"),
        (3301, {"weight_bytes": 100, "activation_bytes": 900, "op_bytes": 3000}, "above 1.1 op_bytes"),
    ],
)
def test_rows_are_held_to_their_bounds(measured: int, cost: dict[str, Any], verdict: str) -> None:
    (line,) = table.lines_of([_case(**cost)], [[table.Kernel("k", measured, 0, 1)]], l2_bytes=1000)
    assert line.verdict == verdict


def test_steps_give_their_median_and_observed_weights_are_used() -> None:
    cases = [_case(step=step, weight_bytes=500) for step in (2, 3, 4)]
    for case in cases:
        case.observed_weight_bytes = 400
    parts = [[table.Kernel("k", size, 0, 1)] for size in (390, 900, 410)]
    (line,) = table.lines_of(cases, parts, 0)
    assert (line.measured, line.lower, line.calls, line.verdict) == (410, 400, 3, "holds")


def test_a_page_is_measured_range_by_range_and_tabled(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    opened: list[str] = []
    window = dram.Window(lambda: opened.append("begin"), lambda: opened.append("end"))
    rename = {"decoder.5": "decoder.2", "clip.5": "clip.1"}  # the tiny network has fewer layers

    def small(path: str) -> str:
        return next((path.replace(old, new) for old, new in rename.items() if path.startswith(old)), path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dram, "LEAVES", {s: tuple(map(small, paths)) for s, paths in dram.LEAVES.items()})
        wholes = {s: tuple(tuple(map(small, paths)) for paths in sets) for s, sets in dram.WHOLES.items()}
        patch.setattr(dram, "WHOLES", wholes)
        dram.measure(tmp_path, "cpu", "tiny", "auto", window)
        asked = set().union(*dram.rounds())
    found = json.loads((tmp_path / "cases.json").read_text())["cases"]
    assert {(case["path"], case["stage"]) for case in found} == asked
    assert opened == ["begin", "end"] * len(found)  # windows do not nest
    assert {case["view"] for case in found if case["path"] == "sam.2.attention"} == {0, 1}
    assert {case["step"] for case in found if case["path"] == "lm_head" and case["stage"] == "decode"} == {2, 3, 4}
    assert all(case["observed_weight_bytes"] for case in found if case["path"].endswith(".moe.experts"))
    for stage in ("prefill", "decode"):  # a whole costs all that is inside it
        read = {case["path"]: case["values"]["kv_read_bytes"] for case in found if case["stage"] == stage}
        assert 0 < read["decoder.0"] < read["model"]
    log = ['"ID","Kernel Name","dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum"\n']
    for number, case in enumerate(found):
        log.append(f'"{2 * number}","spin_kernel","0","0","1"\n')
        log.append(f'"{2 * number + 1}","gemm","{case["values"]["op_bytes"]}","0","1"\n')
    (tmp_path / "ncu.csv").write_text("".join(log))
    table.table(tmp_path)
    text = (tmp_path / "dram.md").read_text()
    assert "| decode | lm_head | 1 |" in text
    assert "not within 10% of lower bound" in text
    assert len((tmp_path / "dram.csv").read_text().splitlines()) == 1 + len(
        {(case["stage"], case["path"], case["view"]) for case in found}
    )


cost: Any = _script("experts_cost")


def test_paired_costs_are_medians_of_differences() -> None:
    pytest.importorskip("torch")
    pairs = [(1.01, 1.0), (2.02, 2.0), (0.97, 1.0), (1.01, 1.0)]
    found = cost.relative_cost(pairs)
    assert (found["pairs"], found["step_ms"]) == (4, 1000.0)
    assert found["cost"] == pytest.approx(0.01)
    assert found["low"] <= found["cost"] <= found["high"]


def test_the_cost_of_observed_experts_is_measured_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from dsocr_nvtx.run.workload import RunOptions

    monkeypatch.setattr(cost, "PAGES", 3)
    found = cost.check(RunOptions(device="cpu", config="tiny", mode="tiny"), steps=12)
    assert (found["pairs"], found["errors"], found["layers_observed"]) == (2, [], 2)
    assert found["calls_checked"] == found["calls_that_agree"] == 2 * 5
    assert found["copies_distinct"] == {2: 8}
    assert found["distinct"] <= 6
    assert "10 of 10 calls agree" in cost.report(found)
