"""The sampling thread: it reads at a steady pace, ends with its block, and never ends what it watches."""

import itertools
import threading
import time
from typing import Any

import pytest

from dsocr_nvtx.errors import Unavailable
from dsocr_nvtx.measure.gauge import NvmlGauge, Reading, open_gauge, reason_names
from dsocr_nvtx.measure.sampling import Sampler, held_between, power_table


class FakeGauge:
    """Counts its readings; fails at the one it is told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.count, self.fails_at = 0, fails_at

    def read(self, time_ns: int) -> Reading:
        self.count += 1
        if self.count == self.fails_at:
            raise OSError("the driver fell over")
        return Reading(time_ns=time_ns, power_mw=1000 * self.count, energy_mj=self.count)


def test_a_block_is_read_at_both_ends_and_in_between() -> None:
    ticks = itertools.count()
    with Sampler(FakeGauge(), 0.001, lambda: next(ticks)) as sampler:
        time.sleep(0.05)
    assert len(sampler.readings) > 3
    assert [r.time_ns for r in sampler.readings] == list(range(len(sampler.readings)))
    assert not any(thread.name == "dsocr-power" for thread in threading.enumerate())


def test_the_shortest_block_has_two_readings() -> None:
    with Sampler(FakeGauge(), 10.0) as sampler:
        pass
    assert len(sampler.readings) == 2


def test_a_gauge_that_fails_ends_the_sampling_only() -> None:
    with Sampler(FakeGauge(fails_at=2), 0.001) as sampler:
        time.sleep(0.02)
    assert isinstance(sampler.error, OSError)
    assert len(sampler.readings) == 1


def test_readings_become_a_table_with_reasons_by_name() -> None:
    table = power_table([Reading(time_ns=5, power_mw=7, reasons=4 | 1), Reading(time_ns=6)])
    assert table["throttle"].to_pylist() == ["power_cap", None]
    assert table["power_mw"].to_pylist() == [7, None]


def test_reasons_have_names_and_an_idle_gpu_is_none() -> None:
    assert reason_names(0) == reason_names(1) == ""
    assert reason_names(0x24) == "power_cap+sw_thermal"
    assert reason_names(0x1000) == "0x1000"


def test_a_span_without_readings_takes_the_next_one() -> None:
    readings = [Reading(time_ns=0, power_mw=1000), Reading(time_ns=100, power_mw=5000)]
    assert held_between(readings, 10, 20).power_w == 5.0
    assert held_between(readings, 200, 300).power_w is None


class FakeNvml:
    """NVML on which half of the calls do not exist."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_FI_DEV_POWER_INSTANT, NVML_ERROR_NOT_SUPPORTED = 186, 3

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:  # noqa: N802
        return 450_000

    def nvmlDeviceGetClockInfo(self, handle: object, which: int) -> int:  # noqa: N802
        return {1: 1980, 2: 3201}[which]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: object) -> int:  # noqa: N802
        return 4

    def nvmlDeviceGetFieldValues(self, handle: object, fields: list[int]) -> Any:  # noqa: N802
        raise self.NVMLError(self.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetMaxClockInfo(self, handle: object, which: int) -> int:  # noqa: N802
        return 1980

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802
        raise self.NVMLError(3)


def test_what_nvml_does_not_offer_reads_none() -> None:
    gauge = NvmlGauge(FakeNvml(), object())
    assert gauge.max_sm_clock_mhz == 1980
    assert gauge.read(5) == Reading(
        time_ns=5, power_mw=450_000, sm_clock_mhz=1980, memory_clock_mhz=3201, reasons=4, energy_mj=None
    )


def test_a_machine_without_nvml_is_refused_in_one_line() -> None:
    try:
        gauge = open_gauge("none")
    except Unavailable as error:
        assert "\n" not in str(error)  # noqa: PT017 - a machine with a GPU answers instead
    else:
        gauge.close()
        pytest.skip("NVML answers here")
