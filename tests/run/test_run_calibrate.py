"""The run without any tool beside the profiled one, and what the two say of each stage."""

import json
from pathlib import Path

import pytest
from attrs import evolve

from dsocr_nvtx.errors import Unavailable, UsageError
from dsocr_nvtx.run.calibrate import dilation_of, unprofiled_steps, without_tools
from dsocr_nvtx.run.capture import capture
from dsocr_nvtx.run.drawing import draw_page
from dsocr_nvtx.run.workload import RunOptions

OPTIONS = RunOptions(config="tiny", device="cpu", mode="tiny", max_new_tokens=3, warmup=0)


def test_a_calibrated_run_knows_the_dilation_of_every_stage(tmp_path: Path) -> None:
    directory = capture(evolve(OPTIONS, calibrate=True, out=tmp_path / "run"))
    dilation = json.loads((directory / "run.json").read_text())["dilation"]
    assert set(dilation) == {"vision", "prefill", "decode"}
    for told in dilation.values():
        assert told["ratio"] == pytest.approx(told["profiled_ns"] / told["unprofiled_ns"])


def test_an_unprofiled_run_that_fails_says_why() -> None:
    with pytest.raises(Unavailable, match=r"unprofiled run failed.*no element type"):
        unprofiled_steps(evolve(OPTIONS, dtype="nonsense"))


def test_without_hooks_there_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--calibrate"):
        capture(evolve(OPTIONS, calibrate=True, hooks=False, out=tmp_path / "run"))


def test_no_tool_reaches_the_unprofiled_run() -> None:
    tools = {
        "NVTX_INJECTION64_PATH": "x",
        "CUDA_INJECTION64_PATH": "x",
        "LD_PRELOAD": "x",
        "NSYS_PROFILING_SESSION_ID": "",
    }
    assert without_tools(tools | {"PATH": "/bin"}) == {"PATH": "/bin"}


def test_dilation_is_profiled_over_unprofiled_where_both_are_known() -> None:
    found = dilation_of({"decode": 30, "vision": 5}, {"decode": 20})
    assert found == {"decode": {"profiled_ns": 30, "unprofiled_ns": 20, "ratio": 1.5}}


def test_one_batch_of_several_pages_is_compared_with_itself(tmp_path: Path) -> None:
    names = []
    for seed in range(2):
        names.append(str(tmp_path / f"{seed}.png"))
        draw_page(300, 400, seed).save(names[-1])
    options = evolve(OPTIONS, pages=tuple(names), calibrate=True)
    directory = capture(evolve(options, batch=2, out=tmp_path / "run"))
    told = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    assert set(told["dilation"]) == {"vision", "prefill", "decode"}
    with pytest.raises(UsageError, match="--calibrate compares one batch with itself"):
        capture(evolve(options, batch=1, out=tmp_path / "other"))
