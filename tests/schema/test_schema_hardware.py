"""Every roof is a dense figure that the device's units and clock explain, with its source."""

import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.hardware import DATASHEET, Ceilings, datasheet
from dsocr_nvtx.schema.records import DTYPE_BYTES

# (SMs, dense bf16 FLOP per SM and clock with FP32 accumulation, FP32 FLOP per SM and clock, the FP32 figure's GHz).
# Hopper: 132 x 4096 x 1.83 GHz = 989.4 TFLOP/s; A100: 108 x 2048 x 1.41 = 311.9; RTX 4090: 128 x 512 x 2.52 = 165.2.
# FP32: 128 lanes per SM (A100: 64), 2 FLOP each; Hopper's sheets state FP32 at the highest clock.
UNITS = {
    "NVIDIA H200": (132, 4096, 256, 1.980),
    "NVIDIA H100 80GB HBM3": (132, 4096, 256, 1.980),
    "NVIDIA H100 PCIe": (114, 4096, 256, 1.755),
    "NVIDIA A100-SXM4-80GB": (108, 2048, 128, 1.410),
    "NVIDIA A100-SXM4-40GB": (108, 2048, 128, 1.410),
    "NVIDIA A100 80GB PCIe": (108, 2048, 128, 1.410),
    "NVIDIA A100-PCIE-40GB": (108, 2048, 128, 1.410),
    "NVIDIA L40S": (142, 1024, 256, 2.520),
    "NVIDIA GeForce RTX 4090": (128, 512, 256, 2.520),
    "NVIDIA GeForce RTX 5090": (170, 512, 256, 2.407),
}
BANDWIDTH = {  # GB/s, from the datasheets
    "NVIDIA H200": 4800, "NVIDIA H100 80GB HBM3": 3350, "NVIDIA H100 PCIe": 2039, "NVIDIA A100-SXM4-80GB": 2039,
    "NVIDIA A100-SXM4-40GB": 1555, "NVIDIA A100 80GB PCIe": 1935, "NVIDIA A100-PCIE-40GB": 1555, "NVIDIA L40S": 864,
    "NVIDIA GeForce RTX 4090": 1008, "NVIDIA GeForce RTX 5090": 1792,
}  # fmt: skip
ENTRIES = pytest.mark.parametrize("entry", DATASHEET.values(), ids=lambda entry: entry.device)


def test_the_table_knows_exactly_these_devices() -> None:
    assert DATASHEET.keys() == UNITS.keys() == BANDWIDTH.keys()
    assert all(name == entry.device for name, entry in DATASHEET.items())


@ENTRIES
def test_the_matrix_rate_is_dense(entry: Ceilings) -> None:
    sms, per_clock, _, _ = UNITS[entry.device]
    # Within 1.5 %: NVIDIA states L40S's bf16 rate as 362.05 where its clock gives 366.4. A sparse figure is 100 % off.
    assert entry.tensor["bfloat16"] == pytest.approx(sms * per_clock * entry.tensor_clock_hz, rel=0.015)


@ENTRIES
def test_the_vector_rate_is_that_of_the_fp32_lanes(entry: Ceilings) -> None:
    sms, _, per_clock, gigahertz = UNITS[entry.device]
    assert entry.vector == pytest.approx(sms * per_clock * gigahertz * 1e9, rel=0.005)
    assert entry.tensor["float32"] == entry.vector, "without TF32, a matrix product runs on the FP32 lanes"


@ENTRIES
def test_rates_of_element_types_are_in_proportion(entry: Ceilings) -> None:
    half = entry.tensor["bfloat16"]
    assert entry.tensor["float16"] == half
    assert entry.tensor["tfloat32"] == pytest.approx(half / 2, rel=0.015)
    if "float8_e4m3fn" in entry.tensor:
        assert entry.tensor["float8_e4m3fn"] == pytest.approx(2 * half, rel=0.015)
    assert entry.tensor.keys() <= DTYPE_BYTES.keys()


@ENTRIES
def test_memory_and_clocks_are_the_sheets(entry: Ceilings) -> None:
    assert entry.bandwidth == BANDWIDTH[entry.device] * 10**9
    assert entry.l2_bytes % 2**20 == 0
    assert 40 * 2**20 <= entry.l2_bytes <= 128 * 2**20
    assert 10**9 < entry.tensor_clock_hz <= entry.max_clock_hz < 4 * 10**9


@ENTRIES
def test_every_entry_has_a_source_of_its_own_board(entry: Ceilings) -> None:
    assert "NVIDIA" in entry.source
    assert ("PCIe" in entry.source) == ("PCI" in entry.device)


@pytest.mark.parametrize("name", ["", "H200", "NVIDIA H200 ", "nvidia h200", "NVIDIA H200 NVL", "NVIDIA B200"])
def test_any_other_name_is_refused_with_the_flag_to_pass(name: str) -> None:
    with pytest.raises(Refused, match=r"--ceilings FILE.*--hardware NAME.*NVIDIA H200"):
        datasheet(name)


def test_no_rate_is_made_up() -> None:
    assert datasheet("NVIDIA A100-SXM4-80GB").tensor_peak("float8_e4m3fn") is None
    assert datasheet("NVIDIA H200").tensor_peak("int3") is None
    assert datasheet("NVIDIA H200").tensor_peak("bfloat16") == 989_500_000_000_000
