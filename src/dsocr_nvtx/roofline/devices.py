"""The roofs of a device as the report describes it.

A slice of a GPU, or a capped clock, scales a datasheet's; a device that no datasheet is known for gets roofs from its
own SMs, clock, memory rate and compute capability.
"""

import re
from collections.abc import Mapping

from attrs import evolve, frozen

from dsocr_nvtx.ingest.trace import Device
from dsocr_nvtx.schema.hardware import DATASHEET, SHEET_OF, Ceilings

_MIG = re.compile(r" MIG .*$")
_TOLERANCE = 0.01


@frozen
class SmRates:
    """What an SM does in a clock: FLOPs of dense float16 products, of FP32 lanes, and what else it can multiply."""

    half: int
    fp32: int
    has_bf16: bool = True
    has_fp8: bool = False


_PER_SM: Mapping[tuple[int, int], SmRates] = {
    (7, 0): SmRates(1024, 128, has_bf16=False),
    (7, 5): SmRates(1024, 128, has_bf16=False),
    (8, 0): SmRates(2048, 128),
    (8, 6): SmRates(1024, 256),
    (8, 9): SmRates(1024, 256, has_fp8=True),
    (9, 0): SmRates(4096, 256, has_fp8=True),
    (10, 0): SmRates(8192, 256, has_fp8=True),
    (10, 3): SmRates(8192, 256, has_fp8=True),
    (12, 0): SmRates(1024, 256, has_fp8=True),
}
"""By compute capability, from the architectures' whitepapers; GeForce boards have half the matrix rate where products
are added up in FP32."""


def device_roofs(device: Device) -> Ceilings | None:
    """Return the roofs of a report's device, None where neither a datasheet nor the report tells them."""
    name = _MIG.sub("", device.name)
    sheet = DATASHEET.get(name)
    return _as_it_is(sheet, device, is_slice=name != device.name) if sheet is not None else derived_roofs(device)


def _as_it_is(roofs: Ceilings, device: Device, *, is_slice: bool) -> Ceilings:
    """Return a datasheet's roofs for the SMs and the clock that the report states, and say where they are not whole."""
    sheet = SHEET_OF[roofs.device]
    share = device.sm_count / sheet.sms if device.sm_count else 1.0
    clock = device.clock_hz or roofs.max_clock_hz
    notes = [f"{device.sm_count} of {sheet.sms} SMs"] if abs(share - 1) > _TOLERANCE else []
    # A report states the clock that CUDA promises, which a board may exceed: only one below what the rates assume caps.
    is_capped = clock < max(sheet.clock, sheet.fp32_clock) * 1e9 * (1 - _TOLERANCE)
    notes += [f"clocks of at most {clock / 1e9:.3g} GHz"] if is_capped else []
    bandwidth = roofs.bandwidth
    if (is_slice or share < 1 - _TOLERANCE) and 0 < device.bandwidth < roofs.bandwidth * (1 - _TOLERANCE):
        bandwidth = device.bandwidth
        notes.append(f"{bandwidth / 1e9:,.0f} GB/s")

    def reached(rate: int, assumed: float) -> int:
        return round(rate * share * min(clock / assumed, 1.0))

    clocks = {"float32": sheet.fp32_clock * 1e9}
    return evolve(
        roofs,
        device=device.name,
        tensor={t: reached(rate, clocks.get(t, roofs.tensor_clock_hz)) for t, rate in roofs.tensor.items()},
        vector=reached(roofs.vector, clocks["float32"]),
        bandwidth=bandwidth,
        l2_bytes=device.l2_bytes or roofs.l2_bytes,
        l2_bandwidth=reached(roofs.l2_bandwidth, sheet.highest * 1e9) if roofs.l2_bandwidth else None,
        tensor_clock_hz=min(roofs.tensor_clock_hz, clock),
        max_clock_hz=clock if is_capped else max(roofs.max_clock_hz, clock),
        source=roofs.source + (f"; as the report has the device: {', '.join(notes)}" if notes else ""),
    )


def derived_roofs(device: Device) -> Ceilings | None:
    """Return roofs from what the report says of a device; None where a figure is missing or its architecture new."""
    rates = _PER_SM.get(device.capability)
    if rates is None or not (device.sm_count and device.clock_hz and device.bandwidth and device.l2_bytes):
        return None
    each = device.sm_count * device.clock_hz
    half = each * rates.half // (2 if "GeForce" in device.name else 1)
    fp32 = each * rates.fp32
    tensor = {"float16": half, "float32": fp32}
    if rates.has_bf16:
        tensor |= {"bfloat16": half, "tfloat32": half // 2}
    if rates.has_fp8:
        tensor["float8_e4m3fn"] = 2 * half
    major, minor = device.capability
    return Ceilings(
        device=device.name,
        tensor=tensor,
        vector=fp32,
        bandwidth=device.bandwidth,
        l2_bytes=device.l2_bytes,
        tensor_clock_hz=device.clock_hz,
        max_clock_hz=device.clock_hz,
        source=f"derived from the report, as no datasheet is known: {device.sm_count} SMs at "
        f"{device.clock_hz / 1e9:.3f} GHz, compute capability {major}.{minor}, {device.bandwidth / 1e9:,.0f} GB/s; "
        "no rate of the L2 is known",
    )
