"""Datasheet rates per device, by the exact name that CUDA and Nsight Systems give it. Dense figures only.

Each entry names its source and the clock that its figures assume, so that a measured point can be judged at the clock
the device really reached. An unknown name is refused: there is no default device.
"""

from attrs import evolve, frozen

from dsocr_nvtx.errors import Refused

TERA, GIGA, MIB = 10**12, 10**9, 2**20


@frozen(kw_only=True)
class Ceilings:
    """The roofs of one device: FLOP/s per element type and unit, bytes/s per memory.

    ``tensor_clock_hz`` is the clock that ``tensor`` assumes and ``max_clock_hz`` the highest the device runs at: their
    ratio bounds how far above its roof a true point can lie. ``l2_bandwidth`` is None where nobody states it.
    """

    device: str
    tensor: dict[str, int]
    vector: int
    bandwidth: int
    l2_bytes: int
    tensor_clock_hz: int
    max_clock_hz: int
    source: str
    l2_bandwidth: int | None = None

    def tensor_peak(self, dtype: str) -> int | None:
        """Return the dense matrix rate for an element type, or None where the source gives none."""
        return self.tensor.get(dtype)


def _tensor(half: float, tf32: float, fp32: float, fp8: float | None = None) -> dict[str, int]:
    rates = {"bfloat16": half, "float16": half, "tfloat32": tf32, "float32": fp32, "float8_e4m3fn": fp8}
    return {dtype: round(rate * TERA) for dtype, rate in rates.items() if rate is not None}


_H200 = Ceilings(
    device="NVIDIA H200",
    tensor=_tensor(989.5, 494.7, 66.9, 1979.0),
    vector=round(66.9 * TERA),
    bandwidth=4800 * GIGA,
    l2_bytes=60 * MIB,
    # 132 SMs x 4096 dense bf16 FLOP per clock reach 989.5 TFLOP/s at 1.83 GHz
    tensor_clock_hz=1_830_000_000,
    max_clock_hz=1_980_000_000,
    source="NVIDIA H200 Tensor Core GPU datasheet, SXM; sparse figures halved",
)
_H100_PCIE = Ceilings(
    device="NVIDIA H100 PCIe",
    tensor=_tensor(756.5, 378.0, 51.2, 1513.0),
    vector=round(51.2 * TERA),
    bandwidth=2039 * GIGA,
    l2_bytes=50 * MIB,
    # 114 SMs x 4096 FLOP per clock
    tensor_clock_hz=1_620_000_000,
    max_clock_hz=1_755_000_000,
    source="NVIDIA H100 Tensor Core GPU datasheet and architecture whitepaper, PCIe; sparse figures halved",
)
_A100_SXM_80 = Ceilings(
    device="NVIDIA A100-SXM4-80GB",
    tensor=_tensor(312.0, 156.0, 19.5),
    vector=round(19.5 * TERA),
    bandwidth=2039 * GIGA,
    l2_bytes=40 * MIB,
    tensor_clock_hz=1_410_000_000,
    max_clock_hz=1_410_000_000,
    source="NVIDIA A100 Tensor Core GPU datasheet, SXM",
)
_L40S = Ceilings(
    device="NVIDIA L40S",
    tensor=_tensor(362.05, 183.0, 91.6, 733.0),
    vector=round(91.6 * TERA),
    bandwidth=864 * GIGA,
    l2_bytes=96 * MIB,
    tensor_clock_hz=2_520_000_000,
    max_clock_hz=2_520_000_000,
    source="NVIDIA L40S datasheet, figures without sparsity",
)
_RTX_4090 = Ceilings(
    device="NVIDIA GeForce RTX 4090",
    tensor=_tensor(165.2, 82.6, 82.6, 330.3),
    vector=round(82.6 * TERA),
    bandwidth=1008 * GIGA,
    l2_bytes=72 * MIB,
    tensor_clock_hz=2_520_000_000,
    max_clock_hz=3_105_000_000,
    source="NVIDIA Ada GPU architecture whitepaper, FP32 accumulation, dense",
)
_RTX_5090 = Ceilings(
    device="NVIDIA GeForce RTX 5090",
    tensor=_tensor(209.5, 104.8, 104.8, 419.0),
    vector=round(104.8 * TERA),
    bandwidth=1792 * GIGA,
    l2_bytes=96 * MIB,
    tensor_clock_hz=2_407_000_000,
    max_clock_hz=3_090_000_000,
    source="NVIDIA RTX Blackwell GPU architecture whitepaper, FP32 accumulation, dense",
)

DATASHEET: dict[str, Ceilings] = {
    entry.device: entry
    for entry in (
        _H200,
        evolve(_H200, device="NVIDIA H100 80GB HBM3", bandwidth=3350 * GIGA, l2_bytes=50 * MIB,
               source="NVIDIA H100 Tensor Core GPU datasheet, SXM; sparse figures halved"),
        _H100_PCIE,
        _A100_SXM_80,
        evolve(_A100_SXM_80, device="NVIDIA A100-SXM4-40GB", bandwidth=1555 * GIGA),
        evolve(_A100_SXM_80, device="NVIDIA A100 80GB PCIe", bandwidth=1935 * GIGA,
               source="NVIDIA A100 Tensor Core GPU datasheet, PCIe"),
        evolve(_A100_SXM_80, device="NVIDIA A100-PCIE-40GB", bandwidth=1555 * GIGA,
               source="NVIDIA A100 Tensor Core GPU datasheet, PCIe"),
        _L40S,
        _RTX_4090,
        _RTX_5090,
    )
}  # fmt: skip


def at_highest_clock(roofs: Ceilings) -> Ceilings:
    """Return rates that no true measurement on the device can exceed: its roofs at the highest clock it runs at.

    Where a datasheet entry exists, the higher of the two counts, also of bandwidths: memory does not follow the clock.
    """
    known = DATASHEET.get(roofs.device, roofs)
    scale, known_scale = (some.max_clock_hz / some.tensor_clock_hz for some in (roofs, known))
    tensor = {name: max(rate * scale, known.tensor.get(name, 0) * known_scale) for name, rate in roofs.tensor.items()}
    return evolve(
        roofs,
        tensor={name: round(rate) for name, rate in tensor.items()},
        vector=round(max(roofs.vector * scale, known.vector * known_scale)),
        bandwidth=max(roofs.bandwidth, known.bandwidth),
        l2_bandwidth=None if roofs.l2_bandwidth is None else round(roofs.l2_bandwidth * scale),
    )


def datasheet(device: str) -> Ceilings:
    """Return the datasheet ceilings of a device by its exact name; refuse any other name."""
    try:
        return DATASHEET[device]
    except KeyError as cause:
        remedy = "pass --ceilings FILE with its roofs, or --hardware NAME with one of: " + ", ".join(DATASHEET)
        raise Refused(device or "device without a name", "no roofs are known for this device", remedy) from cause
