"""One reading of a GPU's gauges through NVML: power, energy, clocks, temperature, and what holds the clocks down.

A gauge that the driver does not offer reads None; nothing here changes a setting.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from attrs import frozen

from dsocr_nvtx.errors import Unavailable

_REASONS: Final = {
    0x2: "application_clocks", 0x4: "power_cap", 0x8: "hw_slowdown", 0x10: "sync_boost", 0x20: "sw_thermal",
    0x40: "hw_thermal", 0x80: "power_brake", 0x100: "display_clocks",
}  # fmt: skip
"""Bits of NVML's clocks event reasons. Bit 0, an idle GPU, holds nothing down that works."""


@frozen(kw_only=True)
class Reading:
    """The gauges at one instant."""

    time_ns: int
    power_mw: int | None = None
    energy_mj: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    reasons: int | None = None


class Gauge(Protocol):
    """Something that can be read at an instant."""

    def read(self, time_ns: int) -> Reading:
        """Return the gauges now, stamped with the time given."""
        ...


def reason_names(bits: int) -> str:
    """Return NVML's reasons by name, joined by +; unknown bits as a number."""
    names = [name for bit, name in _REASONS.items() if bits & bit]
    rest = bits & ~(sum(_REASONS) | 1)
    return "+".join([*names, hex(rest)] if rest else names)


class NvmlGauge:
    """The gauges of one GPU. `open_gauge` makes it, `close` ends it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self.max_sm_clock_mhz = self._try(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))
        self._power: Callable[[], int] = self._instant_power
        if self._try(self._instant_power) is None:
            self._power = lambda: int(nvml.nvmlDeviceGetPowerUsage(handle))
        reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        self._reasons = reasons or nvml.nvmlDeviceGetCurrentClocksThrottleReasons

    def read(self, time_ns: int) -> Reading:
        """Return the gauges now. Takes some tens of microseconds, without the interpreter's lock only inside NVML."""
        nvml, handle = self._nvml, self._handle
        return Reading(
            time_ns=time_ns,
            power_mw=self._try(self._power),
            energy_mj=self._try(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
            sm_clock_mhz=self._try(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=self._try(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            temperature_c=self._try(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            reasons=self._try(lambda: self._reasons(handle)),
        )

    def close(self) -> None:
        """Let NVML go."""
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def driver(self) -> str:
        """Return the driver's version."""
        return str(self._nvml.nvmlSystemGetDriverVersion())

    def _instant_power(self) -> int:
        """Return power now; the plain call averages over a second on recent GPUs."""
        (value,) = self._nvml.nvmlDeviceGetFieldValues(self._handle, [self._nvml.NVML_FI_DEV_POWER_INSTANT])
        if value.nvmlReturn != 0 or not value.value.uiVal:
            raise self._nvml.NVMLError(self._nvml.NVML_ERROR_NOT_SUPPORTED)
        return int(value.value.uiVal)

    def _try(self, ask: Callable[[], Any]) -> int | None:
        try:
            return int(ask())
        except (self._nvml.NVMLError, AttributeError):
            return None


def open_gauge(uuid: str) -> NvmlGauge:
    """Return the gauge of the GPU with this UUID, as torch or NVML writes it; refuse where NVML cannot be asked."""
    try:
        import pynvml
    except ImportError as error:
        raise Unavailable("reading power and clocks needs NVML's package; pip install nvidia-ml-py") from error
    try:
        pynvml.nvmlInit()
        return NvmlGauge(pynvml, _handle(pynvml, uuid))
    except pynvml.NVMLError as error:
        raise Unavailable(f"NVML does not answer ({error}); is the NVIDIA driver installed here?") from error


def _handle(nvml: Any, uuid: str) -> Any:
    """Return the handle of a UUID; an instance of MIG shows the UUID of its own, so the only GPU will do."""
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    try:
        return nvml.nvmlDeviceGetHandleByUUID(name)
    except nvml.NVMLError:
        if nvml.nvmlDeviceGetCount() != 1:
            raise
        return nvml.nvmlDeviceGetHandleByIndex(0)
