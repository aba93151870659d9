"""Which source of device times a run uses: what was asked for, or the best that is possible here."""

from collections.abc import Callable

import torch

from dsocr_nvtx.errors import Unavailable, UsageError
from dsocr_nvtx.run.advice import under_nsys
from dsocr_nvtx.run.cupti_capture import CuptiCapture, usable_cupti


def choose_timing(
    asked: str,
    device: torch.device,
    say: Callable[[str], None],
    make: Callable[[], CuptiCapture] = usable_cupti,
) -> tuple[str, CuptiCapture | None]:
    """Return (cupti, events or none) and, for cupti, the capture that will record.

    ``auto`` takes CUPTI where it can, nothing under Nsight Systems, which times everything itself, and else events.
    """
    if asked == "none" or (asked == "auto" and device.type != "cuda"):
        return "none", None
    if device.type != "cuda":
        raise UsageError(f"--timing {asked} times GPU work: it does not go with --device cpu")
    if asked == "events":
        return "events", None
    if asked == "auto" and under_nsys():
        return "none", None
    try:
        return "cupti", make()
    except Unavailable as reason:
        if asked == "cupti":
            raise
        say(f"{reason}; CUDA events instead")
        return "events", None


def described_devices() -> dict[int, dict[str, object]]:
    """Return what a join needs to know of every GPU, by CUDA ordinal."""
    return {
        ordinal: _described(torch.cuda.get_device_properties(ordinal)) for ordinal in range(torch.cuda.device_count())
    }


def _described(properties: object) -> dict[str, object]:
    uuid = getattr(properties, "uuid", None)
    return {
        "name": str(getattr(properties, "name", "")),
        "sm_count": int(getattr(properties, "multi_processor_count", 0)),
        "clock_hz": int(getattr(properties, "clock_rate", 0)) * 1000,
        "l2_bytes": int(getattr(properties, "L2_cache_size", 0)),
        "uuid": f"GPU-{uuid}" if uuid is not None else "",
    }
