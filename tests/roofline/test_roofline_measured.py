"""Roofs that were measured: which rows count, whose GPU they are, and what no true point can exceed."""

from pathlib import Path

import pyarrow as pa
import pytest
from attrs import evolve

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.trace import Device
from dsocr_nvtx.roofline.ceilings import roofs_of
from dsocr_nvtx.roofline.measured import read_launching
from dsocr_nvtx.roofline.points import roofline
from dsocr_nvtx.schema.files import write_table
from dsocr_nvtx.schema.gauges import CEILINGS
from dsocr_nvtx.schema.hardware import DATASHEET, at_highest_clock
from dsocr_nvtx.schema.tables import KERNELS, MEASURED, conform
from tests.builders.tables import Row, filled

H200 = Device(ordinal=0, name="NVIDIA H200", uuid="GPU-CBC0", l2_bytes=62_914_560)
TEXT: Row = {"quantity": "", "regime": "burst", "kernel": "", "unit": "", "shape": "", "throttle": "", "dtype": None}
ROOFS: tuple[Row, ...] = (
    {"quantity": "matmul", "dtype": "bfloat16", "median": 8.0e14, "is_roof": True, "sm_clock_mhz": 1800.0},
    {"quantity": "matmul", "dtype": "bfloat16", "median": 7.0e14, "is_roof": False, "sm_clock_mhz": 1500.0},
    {"quantity": "vector", "dtype": "float32", "median": 6.0e13, "is_roof": True, "sm_clock_mhz": 1980.0},
    {"quantity": "read", "median": 4.4e12, "is_roof": True},
    {"quantity": "copy", "median": 4.6e12, "is_roof": True},
    {"quantity": "l2_read", "median": 7.0e12, "is_roof": True},
    {"quantity": "stream_period", "median": 2000.0, "is_roof": True},
    {"quantity": "replay_period", "median": 1400.0, "is_roof": True},
)


def written(path: Path, rows: tuple[Row, ...] = ROOFS, **about: str) -> Path:
    """Write a CEILINGS table."""
    table = filled(CEILINGS, [{**TEXT, **row} for row in rows])
    known = {"device": "NVIDIA H200", "uuid": "cbc0", "l2_bytes": "62914560", "max_sm_clock_mhz": "1980", "date": "D"}
    columns = {name: table[name] for name in CEILINGS.names}
    write_table(conform(columns, CEILINGS, known | about), path)
    return path


def test_the_fastest_rows_are_the_roofs(tmp_path: Path) -> None:
    roofs = roofs_of([H200], None, written(tmp_path / "c.arrow"))
    assert roofs.tensor == {"bfloat16": 800 * 10**12}
    assert (roofs.vector, roofs.bandwidth, roofs.l2_bandwidth) == (60 * 10**12, 4400 * 10**9, 7000 * 10**9)
    assert (roofs.tensor_clock_hz, roofs.max_clock_hz) == (1_800_000_000, 1_980_000_000)
    assert roofs.source == "measured D, c.arrow"


def test_another_card_of_the_name_is_said_and_another_gpu_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "c.arrow")
    assert "another card" in roofs_of([evolve(H200, uuid="GPU-ffff")], None, path).source
    assert "another card" not in roofs_of([evolve(H200, uuid="")], None, path).source
    with pytest.raises(Refused, match="the roofs of NVIDIA H200, not of NVIDIA L40S"):
        roofs_of([evolve(H200, name="NVIDIA L40S")], None, path)


def test_a_vector_rate_nobody_measured_is_the_datasheets(tmp_path: Path) -> None:
    rows = tuple(row for row in ROOFS if row["quantity"] not in ("vector", "l2_read"))
    roofs = roofs_of([H200], None, written(tmp_path / "c.arrow", rows))
    assert roofs.vector == DATASHEET["NVIDIA H200"].vector
    assert roofs.l2_bandwidth is None
    assert "vector rate by the datasheet" in roofs.source
    with pytest.raises(Refused, match="no roof for vector"):
        roofs_of([], None, written(tmp_path / "c.arrow", rows, device="NVIDIA Imaginary"))


@pytest.mark.parametrize("lacking", ["matmul", "read"])
def test_a_file_without_a_roof_is_refused(tmp_path: Path, lacking: str) -> None:
    rows = tuple(row for row in ROOFS if row["quantity"] != lacking)
    with pytest.raises(Refused, match=f"no roof for {lacking}"):
        roofs_of([H200], None, written(tmp_path / "c.arrow", rows))


def test_another_table_is_refused(tmp_path: Path) -> None:
    write_table(conform({"a": [1]}, pa.schema([pa.field("a", pa.int64())])), tmp_path / "c.arrow")
    with pytest.raises(Refused, match="no column quantity"):
        roofs_of([H200], None, tmp_path / "c.arrow")


def test_what_was_measured_of_launching_is_kept_for_tables(tmp_path: Path) -> None:
    path = written(tmp_path / "c.arrow")
    assert read_launching(path) == {"stream_period_ns": "2000", "replay_period_ns": "1400"}
    assert read_launching(tmp_path / "c.json") == {}


def test_without_clocks_nothing_is_scaled(tmp_path: Path) -> None:
    rows = tuple({**row, "sm_clock_mhz": None} for row in ROOFS)
    roofs = roofs_of([], None, written(tmp_path / "c.arrow", rows, device="NVIDIA Imaginary", max_sm_clock_mhz=""))
    assert at_highest_clock(roofs).tensor == roofs.tensor


def test_the_bound_is_the_higher_of_datasheet_and_measurement_at_the_highest_clock(tmp_path: Path) -> None:
    bound = at_highest_clock(roofs_of([H200], None, written(tmp_path / "c.arrow")))
    # Datasheet 989.5 TFLOP/s at 1830 MHz is 1070.6 at 1980; measured 800 at 1800 is 880.
    assert bound.tensor["bfloat16"] == pytest.approx(989.5e12 * 1980 / 1830, rel=1e-9)
    assert bound.bandwidth == 4800 * 10**9
    imaginary = evolve(roofs_of([H200], None, written(tmp_path / "c.arrow")), device="NVIDIA Imaginary")
    assert at_highest_clock(imaginary).tensor["bfloat16"] == 880 * 10**12
    assert at_highest_clock(imaginary).bandwidth == 4400 * 10**9


def rows_of(busy: int, **more: object) -> list[dict[str, object]]:
    """Return the roofline rows of one call that was busy for so long."""
    times = {"busy_owned_ns": busy, "kernel_ns": busy, "wall_ns": busy}
    ranges = filled(MEASURED, [{"event_id": 1, "device": 0, **times, **more}])
    kernels = filled(KERNELS, [])
    found = roofline(kernels, ranges, DATASHEET["NVIDIA H200"])
    assert found.rows.schema.metadata[b"above_roof"].decode() == str(
        sum(value is True for value in found.rows["above_roof"].to_pylist())
    )
    return list(found.rows.to_pylist())


@pytest.mark.parametrize(
    ("busy", "above"),
    # 1e12 FLOP take 934 us at 1070.6 TFLOP/s, the bound, and 1011 us at the roof itself.
    [(0, None), (900_000, True), (950_000, False), (1_100_000, False)],
)
def test_a_row_faster_than_the_highest_clock_allows_is_flagged(busy: int, above: bool | None) -> None:
    assert [row["above_roof"] for row in rows_of(busy, tensor_flops=10**12)] == [above]


def test_expected_experts_contradict_nothing_and_observed_ones_do() -> None:
    # 48 MB take 10 us at 4.8 TB/s.
    weights = {"kind": "experts", "weight_bytes": 48_000_000}
    assert [row["above_roof"] for row in rows_of(5_000, **weights)] == [False]
    assert [row["above_roof"] for row in rows_of(5_000, **weights, observed_weight_bytes=48_000_000)] == [True]
    assert [row["above_roof"] for row in rows_of(5_000, kind="mlp", weight_bytes=48_000_000)] == [True]


@pytest.mark.parametrize("row", [0, 3, 6])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_a_rate_or_a_time_that_nothing_has_is_refused(tmp_path: Path, row: int, value: float) -> None:
    rows = [dict(one) for one in ROOFS]
    rows[row]["median"] = value
    path = written(tmp_path / "c.arrow", tuple(rows))
    with pytest.raises(Refused, match=str(rows[row]["quantity"])):
        roofs_of([H200], None, path)
