"""Observed experts from marks to tables: they change what held them, and nothing else."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.report import read_report
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.join.inclusive import exclusive_table
from dsocr_nvtx.roofline.points import roofline
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.hardware import datasheet
from dsocr_nvtx.schema.payload import EXPERTS_PREFIX, experts_mark, parse_experts_mark
from tests.builders.emitters import Listener
from tests.builders.tables import payload_v1 as payload
from tests.builders.tables import trace
from tests.join.test_engine_replays import graph_file

EXPERTS = payload(event_id=4, kind=5, level=2, weight_bytes=1000, layer=1, stage=2)
LAYER = payload(event_id=3, kind=13, level=1, weight_bytes=1700, layer=1, stage=2)


def _joined(*marks: str, pid: int = 1) -> Joined:
    ranges = [
        {"path": "decoder.1", "start_ns": 0, "end_ns": 100, "payload": np.array(LAYER).tobytes()},
        {"path": "decoder.1.moe.experts", "start_ns": 10, "end_ns": 90, "payload": np.array(EXPERTS).tobytes()},
    ]
    launches = [{"start_ns": 20, "end_ns": 22, "correlation_id": 1, "name": "cudaLaunchKernel"}]
    kernels = [{"start_ns": 30, "end_ns": 60, "correlation_id": 1}]
    told = [{"text": text, "time_ns": 200, "pid": pid} for text in marks]
    return join(trace(ranges, kernels, launches, told), "by hand")


def test_observed_weights_replace_expected_ones() -> None:
    ranges = _joined(experts_mark(2, 0, 100, 1000, [(4, 6)])).ranges
    assert ranges["weight_bytes"].to_pylist() == [700, 1000]
    assert ranges["observed_weight_bytes"].to_pylist() == [700, 600]


def test_rooflines_use_them() -> None:
    roofs = datasheet("NVIDIA H200")
    for marks, weights in (((experts_mark(2, 0, 100, 1000, [(4, 6)]),), [700, 600]), ((), [700, 1000])):
        joined = _joined(*marks)
        rows = roofline(joined.kernels, joined.ranges, roofs).rows.to_pylist()
        assert sorted(row["weight_bytes"] for row in rows) == sorted(weights)


@pytest.mark.parametrize(
    "mark",
    [
        experts_mark(2, 0, 100, 1000, [(99, 6)]),  # a range that the report lacks
        f"{EXPERTS_PREFIX}2 0 100 1000 4:six",
        f"{EXPERTS_PREFIX}2 0 100 1000",
        f"{EXPERTS_PREFIX}2 0 100 4:6",
    ],
)
def test_other_marks_change_nothing(mark: str) -> None:
    assert _joined(mark).ranges["observed_weight_bytes"].null_count == 2


def test_a_mark_of_another_process_is_not_ours() -> None:
    assert _joined(experts_mark(2, 0, 100, 1000, [(4, 6)]), pid=2).ranges["observed_weight_bytes"].null_count == 2


def test_a_mark_that_is_there_twice_counts_once() -> None:
    mark = experts_mark(2, 0, 100, 1000, [(4, 6)])
    assert _joined(mark, mark).ranges["observed_weight_bytes"].to_pylist() == [700, 600]


def test_several_calls_in_one_range_add_up() -> None:
    ranges = _joined(experts_mark(2, 0, 100, 500, [(4, 6), (4, 3)])).ranges
    assert ranges["observed_weight_bytes"].to_pylist() == [700, 900]


def test_more_experts_than_announced_are_refused() -> None:
    with pytest.raises(Refused, match=r"more experts than decoder\.1\.moe\.experts was announced with"):
        _joined(experts_mark(2, 0, 100, 1001, [(4, 6)]))


def test_tables_from_before_still_make_rooflines() -> None:
    joined = _joined()
    older = joined.ranges.drop_columns(["observed_weight_bytes"])
    new = roofline(joined.kernels, joined.ranges, datasheet("NVIDIA H200")).rows
    assert roofline(joined.kernels, older, datasheet("NVIDIA H200")).rows.equals(new)


def test_marks_are_read_as_they_were_written() -> None:
    text = experts_mark(1, 7, 6_881_280, 349_234_560, [(1 << 41, 51), (5, 6)])
    assert parse_experts_mark(text) == (1, 7, 6_881_280, 349_234_560, ((1 << 41, 51), (5, 6)))


@cache
def _heard(level: str) -> tuple[Listener, Any]:
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from dsocr_nvtx.hooks import hook
    from dsocr_nvtx.run.model import random_model, tiny_config

    listener, model = Listener(), random_model(tiny_config())
    ids = torch.randint(2, 400, (1, 9), generator=torch.Generator().manual_seed(0)).expand(5, -1)
    with torch.inference_mode(), hook(model, level=level, emitter=listener, observe_experts=True) as session:
        for stage, given in [("prefill", ids), ("prefill", ids[:, :4]), ("decode", ids[:, :1])]:
            with session.step(stage):
                model(input_ids=given, use_cache=True, logits_to_keep=1)
    return listener, session


@pytest.mark.parametrize("level", ["op", "layer", "stage"])
@pytest.mark.parametrize("payloads", [True, False])
def test_a_report_tells_what_the_run_observed(level: str, payloads: bool, tmp_path: Path) -> None:
    listener, session = _heard(level)
    report = listener.as_nsys(payloads=payloads).write(tmp_path / "report.sqlite")
    ranges: pa.Table = join(read_report(report), "report").ranges
    found = dict(zip(ranges["event_id"].to_pylist(), ranges["observed_weight_bytes"].to_pylist(), strict=True))
    session.stats.write(tmp_path)
    recorded = exclusive_table(read_table(tmp_path / "ranges.arrow"), "run")
    expected = dict(zip(*(recorded[name].to_pylist() for name in ("event_id", "observed_weight_bytes")), strict=True))
    assert found == expected
    assert any(value is not None for value in expected.values())


def test_the_rooflines_say_whose_experts_they_hold() -> None:
    for marks, source in (((experts_mark(2, 0, 100, 1000, [(4, 6)]),), b"observed"), ((), b"expected")):
        joined = _joined(*marks)
        rows = roofline(joined.kernels, joined.ranges, datasheet("NVIDIA H200")).rows
        assert rows.schema.metadata[b"experts"] == source


def test_a_mark_of_a_captured_call_is_of_the_launch_at_its_step(tmp_path: Path) -> None:
    file = graph_file()  # steps 1 and 2 launch it; the MLP stands in for experts: event 2, 2 bytes
    file.mark(experts_mark(2, 1, 1, 2, [(2, 1)]), 5000)
    ranges = join(read_report(file.write(tmp_path / "graph.sqlite")), "graph").ranges.to_pylist()
    found = {
        (row["path"], row["step"]): (row["weight_bytes"], row["observed_weight_bytes"])
        for row in ranges if row["origin"] == "replayed"
    }  # fmt: skip
    assert found["decoder.3.mlp", 1] == (2, 1)
    assert found["decoder.3", 1] == (0, None)
    assert found["decoder.3.mlp", 2] == (2, None)
    assert {row["observed_weight_bytes"] for row in ranges if row["origin"] == "captured"} == {None}
