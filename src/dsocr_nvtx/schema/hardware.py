"""Datasheet rates per device, by the exact name that CUDA and Nsight Systems give it. Dense figures only.

Each entry names its source and the clock that its figures assume, so that a measured point can be judged at the clock
the device really reached. There is no default device.
"""

import re

from attrs import evolve, frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.datasheets import SHEETS, Sheet

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

    @property
    def is_known(self) -> bool:
        """Say whether there are roofs at all."""
        return bool(self.tensor)

    def tensor_peak(self, dtype: str) -> int | None:
        """Return the dense matrix rate for an element type, or None where the source gives none."""
        return self.tensor.get(dtype)


def _ceilings(sheet: Sheet) -> Ceilings:
    rates = {"float16": sheet.half, "tfloat32": sheet.tf32, "float32": sheet.fp32, "float8_e4m3fn": sheet.fp8}
    tensor = ({"bfloat16": sheet.half} if sheet.has_bf16 else {}) | rates
    l2_rate, l2_source = sheet.l2_read or (None, "")
    return Ceilings(
        device=sheet.device,
        tensor={dtype: round(rate * TERA) for dtype, rate in tensor.items() if rate is not None},
        vector=round(sheet.fp32 * TERA),
        bandwidth=sheet.bandwidth * GIGA,
        l2_bytes=sheet.l2 * MIB,
        tensor_clock_hz=round(sheet.clock * GIGA),
        max_clock_hz=round(sheet.highest * GIGA),
        source=f"{sheet.source}; {f'L2 {l2_source}' if l2_rate else 'no rate of the L2 is known'}",
        l2_bandwidth=round(l2_rate * TERA) if l2_rate else None,
    )


SHEET_OF = {sheet.device: sheet for sheet in SHEETS}
DATASHEET: dict[str, Ceilings] = {sheet.device: _ceilings(sheet) for sheet in SHEETS}


def no_roofs(device: str, why: str) -> Ceilings:
    """Return what stands for the roofs of a device that has none: no rates, and ``why``."""
    return Ceilings(
        device=device, tensor={}, vector=0, bandwidth=0, l2_bytes=0, tensor_clock_hz=1, max_clock_hz=1, source=why
    )


def at_highest_clock(roofs: Ceilings) -> Ceilings:
    """Return rates that no true measurement on the device can exceed: its roofs at the highest clock it runs at.

    Where a datasheet entry exists, the higher of the two counts, also of bandwidths: memory does not follow the clock.
    The FP32 rate of a sheet has a clock of its own: what was measured of it cannot lie above the sheet's.
    """
    known, sheet = DATASHEET.get(roofs.device, roofs), SHEET_OF.get(roofs.device)
    scale, known_scale = (some.max_clock_hz / some.tensor_clock_hz for some in (roofs, known))
    tensor = {name: max(rate * scale, known.tensor.get(name, 0) * known_scale) for name, rate in roofs.tensor.items()}
    vector = roofs.vector * scale
    if sheet is not None:
        vector = max(roofs.vector, known.vector * sheet.highest / sheet.fp32_clock)
        tensor |= {"float32": max(vector, roofs.tensor["float32"])} if "float32" in tensor else {}
    return evolve(
        roofs,
        tensor={name: round(rate) for name, rate in tensor.items()},
        vector=round(vector),
        bandwidth=max(roofs.bandwidth, known.bandwidth),
        l2_bandwidth=None if roofs.l2_bandwidth is None else round(roofs.l2_bandwidth * scale),
    )


def datasheet(device: str) -> Ceilings:
    """Return the datasheet ceilings of a device by its exact name; refuse any other, and say what it may mean."""
    if device in DATASHEET:
        return DATASHEET[device]
    meant = suggestions(device)
    names = " or ".join(meant) if meant else "one of: " + ", ".join(DATASHEET)
    remedy = f"pass --ceilings FILE with its roofs, or --hardware NAME with {names}"
    raise Refused(device or "device without a name", "no roofs are known for this device", remedy)


def suggestions(text: str) -> list[str]:
    """Return the devices whose names have every word of a text, like ``h200`` or ``A100 80GB``."""
    words = re.findall("[a-z0-9]+", text.lower())
    return [name for name in DATASHEET if words and set(words) <= set(re.findall("[a-z0-9]+", name.lower()))]
