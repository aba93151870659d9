"""Dilation: told beside each stage, and a host verdict is withheld where watching alone explains it."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from dsocr_nvtx.report.words import verdict
from dsocr_nvtx.roofline.dilation import dilated, read_dilation
from dsocr_nvtx.roofline.points import Roofline
from dsocr_nvtx.schema.hardware import datasheet
from dsocr_nvtx.schema.tables import ROOFLINE, STAGES
from tests.builders.tables import filled


def stage(name: str, busy: int, idle: int, bound: str | None) -> dict[str, object]:
    return {"stage": name, "busy_owned_ns": busy, "idle_owned_ns": idle, "idle_host_ns": idle, "wall_ns": busy + idle,
            "bound": bound, "roofline_ns": busy // 2, "tax_ns": 0, "steps": 1, "efficiency": 0.5}  # fmt: skip


def roofline_of(*stages: dict[str, object]) -> Roofline:
    table = filled(STAGES, list(stages))
    return Roofline(filled(ROOFLINE, []), table, datasheet("NVIDIA H200"), "op")


def test_a_host_verdict_that_dilation_explains_is_withheld() -> None:
    # 40 busy, 20 of them lost, and 60 idle; 1.67 times slower for being watched: 60 without, 20 of them idle.
    found = dilated(roofline_of(stage("decode", 40, 60, "host")), {"decode": 1.67})
    (row,) = found.stages.to_pylist()
    assert (row["bound"], row["dilation"]) == (None, 1.67)
    assert "may explain" in verdict(row)
    assert "not judged" in verdict(row)


@pytest.mark.parametrize("ratio", [1.66, 1.0, 0.5])
def test_a_host_verdict_that_dilation_does_not_explain_stands(ratio: float) -> None:
    found = dilated(roofline_of(stage("decode", 40, 60, "host")), {"decode": ratio})
    (row,) = found.stages.to_pylist()
    assert (row["bound"], row["dilation"]) == ("host", ratio)
    assert found.stages.schema.equals(roofline_of(stage("decode", 40, 60, "host")).stages.schema)


def test_other_verdicts_and_unknown_stages_stand() -> None:
    before = roofline_of(stage("vision", 60, 40, "memory"), stage("decode", 40, 60, "host"))
    found = dilated(before, {"vision": 9.0})
    assert [(row["bound"], row["dilation"]) for row in found.stages.to_pylist()] == [("memory", 9.0), ("host", None)]
    assert dilated(before, {}) is before


def test_dilation_is_read_from_a_run_that_was_calibrated(tmp_path: Path) -> None:
    assert read_dilation(tmp_path) == {}
    (tmp_path / "run.json").write_text(json.dumps({"dilation": {"decode": {"ratio": 1.5}}}))
    assert read_dilation(tmp_path) == {"decode": 1.5}
    (tmp_path / "run.json").write_text(json.dumps({"pages": 1}))
    assert read_dilation(tmp_path) == {}
    assert pa.types.is_float64(STAGES.field("dilation").type)
