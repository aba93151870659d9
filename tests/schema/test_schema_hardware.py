"""Every roof is a dense figure that the device's units and clock explain, with its source."""

import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.hardware import DATASHEET, SHEET_OF, Ceilings, at_highest_clock, datasheet
from dsocr_nvtx.schema.records import DTYPE_BYTES

# Dense FLOP per SM and clock with FP32 accumulation, FP32 FLOP per SM and clock: what the architectures have.
# Hopper: 132 x 4096 x 1.83 GHz = 989.4 TFLOP/s; A100: 108 x 2048 x 1.41 = 311.9; RTX 4090: 128 x 512 x 2.52 = 165.2.
UNITS = {
    "B200": (8192, 256), "GB200": (8192, 256), "B300": (8192, 256), "H200": (4096, 256), "H100": (4096, 256),
    "H800": (4096, 256), "GH200": (4096, 256), "A100": (2048, 128), "A800": (2048, 128), "A30": (2048, 128),
    "A40": (1024, 256), "A10": (1024, 256), "A10G": (512, 256), "A6000": (1024, 256), "3090": (512, 256),
    "L4": (1024, 256), "L40": (512, 256), "L40S": (1024, 256), "Ada": (1024, 256), "4090": (512, 256),
    "Blackwell": (1024, 256), "5090": (512, 256), "T4": (1024, 128), "V100": (1024, 128),
}  # fmt: skip
ENTRIES = pytest.mark.parametrize("entry", DATASHEET.values(), ids=lambda entry: entry.device)
EXPLAINED = pytest.mark.parametrize("name", [name for name in DATASHEET if name != "NVIDIA H20"])
"""An H20's rates are capped: units and clock do not explain them."""


def units(name: str) -> tuple[int, int]:
    """Return what an SM of a device does in a clock."""
    (found,) = (each for word, each in UNITS.items() if word in name.replace("-", " ").split())
    return found


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA B200", "NVIDIA GB200", "NVIDIA B300 SXM6 AC", "NVIDIA GH200 480GB", "NVIDIA H100 NVL", "NVIDIA H800",
        "NVIDIA H20", "NVIDIA L4", "NVIDIA L40", "NVIDIA A10", "NVIDIA A10G", "NVIDIA A30", "NVIDIA A40",
        "NVIDIA A800-SXM4-80GB", "NVIDIA RTX A6000", "NVIDIA RTX 6000 Ada Generation", "NVIDIA GeForce RTX 3090",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "Tesla T4", "Tesla V100-SXM2-16GB",
    ],
)  # fmt: skip
def test_the_table_knows_the_device(name: str) -> None:
    assert DATASHEET[name].device == name


@EXPLAINED
def test_the_matrix_rate_is_dense(name: str) -> None:
    # Within 1.5 %: a sparse figure is 100 % off.
    sheet = SHEET_OF[name]
    assert sheet.half * 1e12 == pytest.approx(sheet.sms * units(name)[0] * sheet.clock * 1e9, rel=0.015)


@EXPLAINED
def test_the_vector_rate_is_that_of_the_fp32_lanes(name: str) -> None:
    sheet, entry = SHEET_OF[name], DATASHEET[name]
    assert entry.vector == pytest.approx(sheet.sms * units(name)[1] * sheet.fp32_clock * 1e9, rel=0.006)
    assert entry.tensor["float32"] == entry.vector, "without TF32, a matrix product runs on the FP32 lanes"


@ENTRIES
def test_rates_of_element_types_are_in_proportion(entry: Ceilings) -> None:
    half = entry.tensor["float16"]
    assert entry.tensor.get("bfloat16", half) == half
    assert entry.tensor.get("tfloat32", half / 2) == pytest.approx(half / 2, rel=0.015)
    assert entry.tensor.get("float8_e4m3fn", 2 * half) == pytest.approx(2 * half, rel=0.015)
    assert ("bfloat16" in entry.tensor) == ("tfloat32" in entry.tensor) == ("Tesla" not in entry.device)
    assert entry.tensor.keys() <= DTYPE_BYTES.keys()


@ENTRIES
def test_memory_and_clocks_are_the_sheets(entry: Ceilings) -> None:
    sheet = SHEET_OF[entry.device]
    assert 300 <= sheet.bandwidth <= 8000
    assert entry.bandwidth == sheet.bandwidth * 10**9
    assert entry.l2_bytes % 2**20 == 0
    assert 4 * 2**20 <= entry.l2_bytes <= 128 * 2**20
    assert 10**9 < entry.tensor_clock_hz <= entry.max_clock_hz < 4 * 10**9


def test_the_clocks_that_sheets_state() -> None:
    """L40S boosts to 2.49 GHz; Hopper's FP32 rate is at 1.98, its matrix rates at 1.83."""
    assert DATASHEET["NVIDIA L40S"].tensor_clock_hz == 2_490_000_000
    assert (SHEET_OF["NVIDIA H200"].clock, SHEET_OF["NVIDIA H200"].fp32_clock) == (1.83, 1.98)


def test_at_the_highest_clock_only_what_assumes_a_lower_one_is_higher() -> None:
    """The FP32 rate of an H200 is at its highest clock already: nothing that is true lies 8 % above."""
    highest = at_highest_clock(DATASHEET["NVIDIA H200"])
    assert highest.vector == highest.tensor["float32"] == 66_900_000_000_000
    assert highest.tensor["bfloat16"] == pytest.approx(989.5e12 * 1.98 / 1.83)
    board = at_highest_clock(DATASHEET["NVIDIA GeForce RTX 4090"])
    assert board.vector == pytest.approx(82.6e12 * 3.105 / 2.52)


@ENTRIES
def test_the_l2_has_a_rate_where_one_is_known_and_the_source_says_which(entry: Ceilings) -> None:
    if entry.l2_bandwidth is None:
        assert entry.source.endswith("no rate of the L2 is known")
    else:
        assert entry.bandwidth < entry.l2_bandwidth < 10e12
        assert "L2 measured on an H200" in entry.source or "by the A100 architecture whitepaper" in entry.source
        assert ("scaled to" in entry.source) == (entry.device in ("NVIDIA H100 NVL", "NVIDIA H100 PCIe", "NVIDIA H20"))


@ENTRIES
def test_every_entry_has_a_source_of_its_own_board(entry: Ceilings) -> None:
    assert "NVIDIA" in entry.source
    assert ("PCIe" in entry.source) == ("PCI" in entry.device)
    assert "datasheet" in entry.source or "whitepaper" in entry.source or "specifications" in entry.source


@pytest.mark.parametrize("name", ["", "H200", "NVIDIA H200 ", "nvidia h200", "NVIDIA H200 NVL"])
def test_any_other_name_is_refused_with_the_flag_to_pass(name: str) -> None:
    with pytest.raises(Refused, match=r"--ceilings FILE.*--hardware NAME.*NVIDIA H200"):
        datasheet(name)


def test_no_rate_is_made_up() -> None:
    assert datasheet("NVIDIA A100-SXM4-80GB").tensor_peak("float8_e4m3fn") is None
    assert datasheet("NVIDIA H200").tensor_peak("int3") is None
    assert datasheet("NVIDIA H200").tensor_peak("bfloat16") == 989_500_000_000_000
