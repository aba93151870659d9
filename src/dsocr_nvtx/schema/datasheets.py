"""What datasheets say of NVIDIA's GPUs, by the exact name that CUDA and Nsight Systems give them. Dense figures only.

Figures that a sheet states with sparsity are halved. Matrix rates are those with FP32 accumulation: GeForce boards (and
the A10G) have half the rate of their siblings then. A device whose sheet lacks a figure is left out: it gets roofs
derived from the report (`dsocr_nvtx.roofline.devices`).

What no sheet of NVIDIA's states, and so is less sure: the clocks of B200, GB200 and B300, which follow from their rates
and SMs (a B200 is seen to reach 1.965 GHz, a B300 at 1.92); their L2, which is what CUDA reports; the A10G's 80 SMs, as
CUDA counts them (its 70 TFLOP/s are 80 SMs at 1.71 GHz). The bandwidth of a B200 is an eighth of the 64 TB/s of DGX and
HGX; makers of servers state 7.7 TB/s for the board of 180 GB. An H20's 44 TFLOP/s of FP32 is what its sheet says, and
more than 78 SMs do at 1.98 GHz (39.5). A report's own SMs and clocks come before all of these.
"""

from attrs import frozen


@frozen
class Sheet:
    """One device. TFLOP/s for bfloat16, tfloat32, float32 (both units), float8; GB/s; MiB of L2; GHz.

    ``clock`` is the one that the matrix rates assume, ``fp32_clock`` that of the FP32 rate, ``highest`` the device's.
    ``l2_read`` is TB/s and where it comes from; none where nobody states it. ``has_bf16`` is false before Ampere.
    """

    device: str
    sms: int
    half: float
    tf32: float | None
    fp32: float
    fp8: float | None
    bandwidth: int
    l2: int
    clock: float
    fp32_clock: float
    highest: float
    source: str
    l2_read: tuple[float, str] | None = None
    has_bf16: bool = True


def _hopper_l2(sms: int, clock: float) -> tuple[float, str]:
    """Return the L2's read rate of a GH100 die: that of an H200, by SMs and clock (reports/h200/ceilings.arrow)."""
    measured = "measured on an H200 of 132 SMs at 1.98 GHz"
    rate = 8.73 * sms / 132 * clock / 1.98
    return rate, measured if (sms, clock) == (132, 1.98) else f"{measured}, scaled to {sms} SMs at {clock} GHz"


def _per_clock(bytes_per_clock: int, clock: float) -> tuple[float, str]:
    """Return the L2's read rate where NVIDIA states bytes per clock (A100 architecture whitepaper)."""
    return bytes_per_clock * clock / 1000, f"{bytes_per_clock} B per clock by the A100 architecture whitepaper"


_H100 = "NVIDIA H100 Tensor Core GPU datasheet"
_A100 = "NVIDIA A100 Tensor Core GPU datasheet"
_ADA, _AMPERE = "NVIDIA Ada GPU architecture whitepaper", "NVIDIA Ampere GA102 GPU architecture whitepaper"
_HALVED = "sparse figures halved"
_L2_SXM, _L2_A100 = _hopper_l2(132, 1.98), _per_clock(5120, 1.41)

SHEETS = (
    Sheet("NVIDIA B200", 148, 2250, 1125, 75.0, 4500, 8000, 126, 1.855, 1.98, 1.98,
          f"NVIDIA HGX B200 specifications, an eighth; {_HALVED}; clocks follow from the rates"),
    Sheet("NVIDIA GB200", 152, 2500, 1250, 80.0, 5000, 8000, 126, 2.008, 2.056, 2.056,
          f"NVIDIA GB200 NVL72 specifications, a 72nd; {_HALVED}; clocks follow from the rates"),
    Sheet("NVIDIA B300 SXM6 AC", 148, 2250, 1125, 75.0, 4500, 8000, 126, 1.855, 1.98, 1.98,
          f"NVIDIA HGX B300 specifications, an eighth; {_HALVED}; clocks follow from the rates"),
    Sheet("NVIDIA H200", 132, 989.5, 494.7, 66.9, 1979, 4800, 60, 1.83, 1.98, 1.98,
          f"NVIDIA H200 Tensor Core GPU datasheet, SXM; {_HALVED}", _L2_SXM),
    Sheet("NVIDIA H100 80GB HBM3", 132, 989.5, 494.7, 66.9, 1979, 3350, 50, 1.83, 1.98, 1.98,
          f"{_H100}, SXM; {_HALVED}", _L2_SXM),
    Sheet("NVIDIA H100 NVL", 132, 835.5, 417.5, 60.0, 1670.5, 3900, 50, 1.545, 1.78, 1.785,
          f"{_H100}, NVL; {_HALVED}", _hopper_l2(132, 1.785)),
    Sheet("NVIDIA H100 PCIe", 114, 756.5, 378.0, 51.2, 1513, 2039, 50, 1.62, 1.755, 1.755,
          f"{_H100} and architecture whitepaper, PCIe; {_HALVED}", _hopper_l2(114, 1.755)),
    Sheet("NVIDIA H800", 132, 989.5, 494.7, 66.9, 1979, 3350, 50, 1.83, 1.98, 1.98,
          f"NVIDIA H800 Tensor Core GPU datasheet, SXM; {_HALVED}", _L2_SXM),
    Sheet("NVIDIA H20", 78, 148.0, 74.0, 44.0, 296, 4000, 60, 1.83, 1.98, 1.98,
          "NVIDIA H20 GPU datasheet", _hopper_l2(78, 1.98)),
    Sheet("NVIDIA GH200 480GB", 132, 989.5, 494.7, 66.9, 1979, 4000, 60, 1.83, 1.98, 1.98,
          f"NVIDIA GH200 Grace Hopper Superchip datasheet, HBM3; {_HALVED}", _L2_SXM),
    Sheet("NVIDIA GH200 144G HBM3e", 132, 989.5, 494.7, 66.9, 1979, 4900, 60, 1.83, 1.98, 1.98,
          f"NVIDIA GH200 Grace Hopper Superchip datasheet, HBM3e; {_HALVED}", _L2_SXM),
    Sheet("NVIDIA A100-SXM4-80GB", 108, 312.0, 156.0, 19.5, None, 2039, 40, 1.41, 1.41, 1.41,
          f"{_A100}, SXM", _L2_A100),
    Sheet("NVIDIA A100-SXM4-40GB", 108, 312.0, 156.0, 19.5, None, 1555, 40, 1.41, 1.41, 1.41,
          f"{_A100}, SXM", _L2_A100),
    Sheet("NVIDIA A100 80GB PCIe", 108, 312.0, 156.0, 19.5, None, 1935, 40, 1.41, 1.41, 1.41,
          f"{_A100}, PCIe", _L2_A100),
    Sheet("NVIDIA A100-PCIE-40GB", 108, 312.0, 156.0, 19.5, None, 1555, 40, 1.41, 1.41, 1.41,
          f"{_A100}, PCIe", _L2_A100),
    Sheet("NVIDIA A800-SXM4-80GB", 108, 312.0, 156.0, 19.5, None, 2039, 40, 1.41, 1.41, 1.41,
          "NVIDIA A800 Tensor Core GPU datasheet, SXM", _L2_A100),
    Sheet("NVIDIA A800 80GB PCIe", 108, 312.0, 156.0, 19.5, None, 1935, 40, 1.41, 1.41, 1.41,
          "NVIDIA A800 Tensor Core GPU datasheet, PCIe", _L2_A100),
    Sheet("NVIDIA A30", 56, 165.0, 82.0, 10.3, None, 933, 24, 1.44, 1.44, 1.44, "NVIDIA A30 Tensor Core GPU datasheet"),
    Sheet("NVIDIA A40", 84, 149.7, 74.8, 37.4, None, 696, 6, 1.74, 1.74, 1.74, "NVIDIA A40 datasheet"),
    Sheet("NVIDIA A10", 72, 125.0, 62.5, 31.2, None, 600, 6, 1.695, 1.695, 1.695, "NVIDIA A10 datasheet"),
    Sheet("NVIDIA A10G", 80, 70.0, 35.0, 35.0, None, 600, 6, 1.71, 1.71, 1.71,
          "NVIDIA A10G datasheet (AWS); FP32 by its 80 SMs at 1.71 GHz"),
    Sheet("NVIDIA RTX A6000", 84, 154.8, 77.4, 38.7, None, 768, 6, 1.8, 1.8, 1.8, "NVIDIA RTX A6000 datasheet"),
    Sheet("NVIDIA GeForce RTX 3090", 82, 71.0, 35.6, 35.6, None, 936, 6, 1.695, 1.695, 1.695, f"{_AMPERE}, dense"),
    Sheet("NVIDIA L4", 58, 121.0, 60.0, 30.3, 242.5, 300, 48, 2.04, 2.04, 2.04,
          f"NVIDIA L4 Tensor Core GPU datasheet; {_HALVED}"),
    Sheet("NVIDIA L40", 142, 181.05, 90.5, 90.5, 362.0, 864, 96, 2.49, 2.49, 2.49,
          "NVIDIA L40 datasheet, figures without sparsity"),
    Sheet("NVIDIA L40S", 142, 362.05, 183.0, 91.6, 733.0, 864, 96, 2.49, 2.52, 2.52,
          "NVIDIA L40S datasheet, figures without sparsity"),
    Sheet("NVIDIA RTX 6000 Ada Generation", 142, 364.2, 182.1, 91.1, 728.5, 960, 96, 2.505, 2.505, 2.505,
          f"NVIDIA RTX 6000 Ada Generation datasheet; {_HALVED}"),
    Sheet("NVIDIA GeForce RTX 4090", 128, 165.2, 82.6, 82.6, 330.3, 1008, 72, 2.52, 2.52, 3.105, f"{_ADA}, dense"),
    Sheet("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 188, 503.8, 251.9, 126.0, 1007.6, 1792, 128,
          2.617, 2.617, 2.617, "NVIDIA RTX Blackwell PRO GPU architecture whitepaper, dense"),
    Sheet("NVIDIA GeForce RTX 5090", 170, 209.5, 104.8, 104.8, 419.0, 1792, 96, 2.407, 2.407, 3.09,
          "NVIDIA RTX Blackwell GPU architecture whitepaper, dense"),
    Sheet("Tesla T4", 40, 65.0, None, 8.1, None, 320, 4, 1.59, 1.59, 1.59, "NVIDIA T4 datasheet", None, False),
    *(
        Sheet(f"Tesla V100-{board}-{size}", 80, half, None, fp32, None, 900, 6, clock, fp32_clock, clock,
              f"NVIDIA V100 datasheet, {form}", _per_clock(2048, clock), False)
        for board, form, half, fp32, clock, fp32_clock in (
            ("SXM2", "SXM2", 125.0, 15.7, 1.53, 1.53), ("PCIE", "PCIe", 112.0, 14.0, 1.38, 1.37),
        )
        for size in ("16GB", "32GB")
    ),
)  # fmt: skip
