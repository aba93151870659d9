"""A device as the report has it: whole, a slice, with capped clocks, of no datasheet, or told by nothing."""

from pathlib import Path

import numpy as np
import pytest
from attrs import evolve

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.trace import Device
from dsocr_nvtx.roofline.ceilings import for_types, roofs_of
from dsocr_nvtx.roofline.devices import derived_roofs, device_roofs
from dsocr_nvtx.roofline.joined import joined_report
from dsocr_nvtx.schema.hardware import DATASHEET, SHEET_OF
from dsocr_nvtx.schema.tables import MEASURED
from tests.builders.tables import filled
from tests.cli.commands import hooked
from tests.roofline.test_roofline_points import points, timed

GB = 10**9
H200 = Device(
    ordinal=0, name="NVIDIA H200", sm_count=132, clock_hz=1_980_000_000, l2_bytes=62_914_560, bandwidth=4814 * GB,
    capability=(9, 0),
)  # fmt: skip
"""As Nsight Systems describes one."""


def test_a_whole_device_has_the_datasheets_roofs() -> None:
    assert device_roofs(H200) == DATASHEET["NVIDIA H200"]
    assert device_roofs(Device(ordinal=0, name="NVIDIA H200")) == DATASHEET["NVIDIA H200"], "a report that says no more"


@pytest.mark.parametrize("value", [-1, 0, 1 << 62])
@pytest.mark.parametrize("column", ["smCount", "clockRate", "l2CacheSize", "memoryBandwidth"])
def test_what_no_device_has_is_not_known_of_it(tmp_path: Path, column: str, value: int) -> None:
    """Neither roofs of a hundred million H200s nor of one that stands still."""
    file = hooked()
    file.rows["TARGET_INFO_GPU"][0][column] = value
    assert joined_report(file.write(tmp_path / "r.sqlite")).judge().roofs == DATASHEET["NVIDIA H200"]


def test_a_slice_has_its_share_of_the_sms_and_its_own_memory() -> None:
    slice_of = Device(
        ordinal=0, name="NVIDIA A30 MIG 2g.12gb", sm_count=28, clock_hz=1_440_000_000, l2_bytes=12 * 2**20,
        bandwidth=466_600_000_000, capability=(8, 0),
    )  # fmt: skip
    roofs = device_roofs(slice_of)
    assert roofs is not None
    # 28 of 56 SMs: half of 165 TFLOP/s and of 10.3
    assert (roofs.tensor["bfloat16"], roofs.vector) == (82_500_000_000_000, 5_150_000_000_000)
    assert (roofs.bandwidth, roofs.l2_bytes, roofs.device) == (466_600_000_000, 12 * 2**20, slice_of.name)
    assert roofs.source.endswith("as the report has the device: 28 of 56 SMs, 467 GB/s")


def test_a_slice_that_keeps_its_name_is_told_by_its_sms() -> None:
    roofs = device_roofs(evolve(H200, sm_count=66, bandwidth=2407 * GB))
    assert roofs is not None
    assert (roofs.tensor["bfloat16"], roofs.bandwidth) == (494_750_000_000_000, 2407 * GB)
    assert "66 of 132 SMs" in roofs.source


def test_capped_clocks_lower_each_rate_by_the_clock_that_it_assumes() -> None:
    roofs = device_roofs(evolve(H200, clock_hz=1_200_000_000))
    assert roofs is not None
    sheet = DATASHEET["NVIDIA H200"]
    assert roofs.tensor["bfloat16"] == pytest.approx(sheet.tensor["bfloat16"] * 1.2 / 1.83)
    assert roofs.vector == roofs.tensor["float32"] == pytest.approx(sheet.vector * 1.2 / 1.98)
    assert (roofs.bandwidth, roofs.tensor_clock_hz, roofs.max_clock_hz) == (
        sheet.bandwidth,
        1_200_000_000,
        1_200_000_000,
    )
    assert "clocks of at most 1.2 GHz" in roofs.source


def test_a_board_that_may_exceed_its_promised_clock_is_not_capped() -> None:
    board = Device(ordinal=0, name="NVIDIA GeForce RTX 4090", sm_count=128, clock_hz=2_520_000_000, bandwidth=1008 * GB)
    assert device_roofs(board) == DATASHEET["NVIDIA GeForce RTX 4090"]


@pytest.mark.parametrize("name", [name for name in DATASHEET if name not in ("NVIDIA H20", "NVIDIA A10G")])
def test_what_is_derived_from_a_report_is_what_the_datasheet_says(name: str) -> None:
    """Compute capability, SMs and clock give the sheet's rates within 2 %."""
    sheet, roofs = SHEET_OF[name], DATASHEET[name]
    each = round(sheet.half * 1000 / sheet.sms / sheet.clock / 512) * 512
    desktop = ((8, 9) if sheet.fp8 else (8, 6)) if sheet.has_bf16 else (7, 5)
    capability = {2048: (8, 0), 4096: (9, 0), 8192: (10, 0)}.get(each, desktop)
    device = Device(
        ordinal=0, name="GeForce" if each == 512 else "board", sm_count=sheet.sms, clock_hz=roofs.tensor_clock_hz,
        bandwidth=roofs.bandwidth, l2_bytes=roofs.l2_bytes, capability=capability,
    )  # fmt: skip
    derived = derived_roofs(device)
    assert derived is not None
    for dtype, rate in roofs.tensor.items():
        clock = sheet.fp32_clock / sheet.clock if dtype == "float32" else 1.0
        assert derived.tensor[dtype] * clock == pytest.approx(rate, rel=0.025), dtype
    assert derived.vector * sheet.fp32_clock / sheet.clock == pytest.approx(roofs.vector, rel=0.02)
    assert "derived from the report" in derived.source


def test_an_unknown_device_gets_roofs_from_the_report_and_says_so() -> None:
    titan = Device(
        ordinal=0, name="NVIDIA TITAN RTX", sm_count=72, clock_hz=1_770_000_000, bandwidth=672 * GB, l2_bytes=6 * 2**20,
        capability=(7, 5),
    )  # fmt: skip
    roofs = roofs_of([titan], None, None)
    # 72 x 1024 x 1.77 GHz = 130.5 TFLOP/s, 72 x 128 x 1.77 = 16.3
    assert roofs.tensor == {"float16": 130_498_560_000_000, "float32": 16_312_320_000_000}
    assert (roofs.vector, roofs.bandwidth) == (16_312_320_000_000, 672 * GB)
    assert "derived from the report" in roofs.source
    for lacking in ({"bandwidth": 0}, {"clock_hz": 0}, {"sm_count": 0}, {"l2_bytes": 0}, {"capability": (3, 7)}):
        assert derived_roofs(evolve(titan, **lacking)) is None


def test_without_any_roof_all_is_measured_and_nothing_judged() -> None:
    roofs = roofs_of([Device(ordinal=0, name="NVIDIA H999")], None, None)
    assert not roofs.is_known
    assert "none are known for NVIDIA H999; pass --hardware NAME or --ceilings FILE" in roofs.source
    found = points([timed(0, 80, 5, layer=3, tensor_flops=60_000, weight_bytes=40)], roofs=roofs)
    (row,), (stage,) = found.rows.to_pylist(), found.stages.to_pylist()
    for one in (row, stage):
        assert (one["wall_ns"], one["busy_owned_ns"], one["tensor_flops"], one["roofline_ns"]) == (85, 80, 60_000, 0)
        assert one["achieved_tflops"] == pytest.approx(0.75)
        assert (one["bound"], one["efficiency"], one["above_roof"]) == (None, None, None)
    assert (stage["mfu"], stage["mbu"]) == (None, None)
    assert found.other_gpu == ""


def test_several_kinds_of_gpu_have_no_roofs_together() -> None:
    roofs = roofs_of([H200, Device(ordinal=1, name="NVIDIA L4")], None, None)
    assert not roofs.is_known
    assert "several kinds of GPU" in roofs.source
    assert roofs_of([H200, evolve(H200, ordinal=1, uuid="GPU-1")], None, None).is_known


def test_a_type_that_the_device_cannot_multiply_leaves_it_without_roofs() -> None:
    v100 = DATASHEET["Tesla V100-SXM2-16GB"]
    assert not for_types(v100, filled(MEASURED, [timed(0, 1, tensor_flops=5)])).is_known
    assert for_types(v100, filled(MEASURED, [timed(0, 1, vector_flops=5)])) == v100


@pytest.mark.parametrize(
    ("text", "meant"), [("h200", "NVIDIA H200"), ("L40", "NVIDIA L40"), ("a100 40gb pcie", "NVIDIA A100-PCIE-40GB")]
)
def test_a_short_name_is_a_suggestion(text: str, meant: str) -> None:
    with pytest.raises(Refused, match=f"--hardware NAME with {meant}$"):
        roofs_of([H200], text, None)


def test_rates_are_whole_numbers_above_zero() -> None:
    for roofs in DATASHEET.values():
        rates = [*roofs.tensor.values(), roofs.vector, roofs.bandwidth, roofs.l2_bandwidth or 1]
        assert all(isinstance(rate, int) and rate > 0 for rate in rates)
        assert np.isfinite(rates).all()


TITAN = {
    "name": "NVIDIA TITAN RTX", "smCount": 72, "clockRate": 1_770_000_000, "l2CacheSize": 6_291_456,
    "memoryBandwidth": 672_096_000_000, "computeMajor": 7, "computeMinor": 5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("stated", "source"),
    [
        ({}, "L2 measured on an H200 of 132 SMs at 1.98 GHz"),
        ({"name": "NVIDIA H200 MIG 1g.18gb", "smCount": 16, "memoryBandwidth": 600 * GB},
         "as the report has the device: 16 of 132 SMs, 600 GB/s"),
        ({"clockRate": 1_000_000_000}, "as the report has the device: clocks of at most 1 GHz"),
        ({**TITAN, "computeMajor": 8, "computeMinor": 6},
         "derived from the report, as no datasheet is known: 72 SMs at 1.770 GHz, compute capability 8.6, 672 GB/s"),
        (TITAN, "none: NVIDIA TITAN RTX has no matrix rate for bfloat16; pass --hardware NAME"),
        ({**TITAN, "computeMajor": None}, "none: none are known for NVIDIA TITAN RTX; pass --hardware NAME"),
    ],
)  # fmt: skip
def test_the_roofs_of_a_report_are_those_of_the_device_that_it_describes(
    tmp_path: Path, stated: dict[str, object], source: str
) -> None:
    file = hooked()
    file.rows["TARGET_INFO_GPU"][0] |= stated
    found = joined_report(file.write(tmp_path / "report.sqlite")).judge()
    assert source in found.roofs.source
    assert found.roofs.is_known == (not source.startswith("none"))
    assert found.rows.schema.metadata[b"small_kernel"].endswith(f"the {stated.get('smCount', 132)} SMs".encode())
    assert found.other_gpu == ""
