"""On a GPU: a quick survey measures every roof, plausibly, and joins as ceilings."""

import time
from pathlib import Path

import pytest

from dsocr_nvtx.ingest.trace import Device
from dsocr_nvtx.roofline.measured import read_launching, read_measured
from dsocr_nvtx.schema.files import write_table
from dsocr_nvtx.schema.hardware import DATASHEET, at_highest_clock

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


def test_a_quick_survey_measures_every_roof(tmp_path: Path) -> None:
    from dsocr_nvtx.measure.ceilings import measure_ceilings

    said: list[str] = []
    started = time.monotonic()
    table = measure_ceilings("cuda:0", quick=True, progress=lambda _text: None, say=said.append)
    assert time.monotonic() - started < 60
    write_table(table, tmp_path / "c.arrow")
    name = torch.cuda.get_device_name(0)
    roofs = read_measured(tmp_path / "c.arrow", [Device(ordinal=0, name=name)])
    assert {"bfloat16", "float16", "float32", "tfloat32"} <= roofs.tensor.keys(), said
    bound = at_highest_clock(DATASHEET.get(name, roofs))
    for dtype, rate in roofs.tensor.items():
        assert 0.5 * bound.tensor[dtype] < rate <= bound.tensor[dtype], dtype
    assert 0.7 * bound.bandwidth < roofs.bandwidth <= bound.bandwidth
    assert roofs.l2_bandwidth is None or roofs.l2_bandwidth > roofs.bandwidth
    launching = {key: int(value) for key, value in read_launching(tmp_path / "c.arrow").items()}
    assert 500 < launching["replay_period_ns"] < launching["host_launch_ns"] * 2
    assert launching["stream_period_ns"] > launching.get("shortest_kernel_ns", 0)
    rows = [row for row in table.to_pylist() if row["regime"] == "sustained"]
    assert all(row["sm_clock_mhz"] for row in rows), said
