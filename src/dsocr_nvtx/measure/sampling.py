"""A thread that reads a gauge at a steady pace while something else runs, and what a span of its readings says."""

import threading
import time
from collections.abc import Callable, Sequence
from statistics import fmean, median
from types import TracebackType

import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.measure.gauge import Gauge, Reading, reason_names
from dsocr_nvtx.schema.gauges import POWER
from dsocr_nvtx.schema.tables import conform


@frozen(kw_only=True)
class Held:
    """Clocks, power, temperature and throttling over a span of time; None where nothing was read in it."""

    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttle: str | None = None


class Sampler:
    """Readings of a gauge, taken by a thread from entering the ``with`` block to leaving it.

    Entering and leaving each read once as well, so that even the shortest block has both its ends. An error of the
    gauge ends the sampling and is kept in ``error``: what is being measured goes on.
    """

    def __init__(self, gauge: Gauge, period_s: float = 0.02, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.readings: list[Reading] = []
        self.error: Exception | None = None
        self._gauge, self._period, self.clock = gauge, period_s, clock
        self._end, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="dsocr-power", daemon=True)

    def __enter__(self) -> "Sampler":
        """Start reading."""
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        """Stop reading."""
        self._end.set()
        self._thread.join()
        if self.error is None:
            self._read()

    def now(self) -> int:
        """Read at once, as the thread would, and return the time of that reading: the end of a span."""
        with self._lock:
            self._read()
            return self.readings[-1].time_ns if self.error is None else self.clock()

    def _run(self) -> None:
        while not self._end.wait(self._period) and self.error is None:
            with self._lock:
                self._read()

    def _read(self) -> None:
        try:
            self.readings.append(self._gauge.read(self.clock()))
        except Exception as error:  # noqa: BLE001 - a driver that fails must not end what is being measured
            self.error = error

    def table(self) -> pa.Table:
        """Return the readings as a POWER table."""
        return power_table(self.readings)


def power_table(readings: Sequence[Reading]) -> pa.Table:
    """Return readings as a POWER table."""
    names = [name for name in POWER.names if name != "throttle"]
    columns: dict[str, object] = {name: [getattr(reading, name) for reading in readings] for name in names}
    columns["throttle"] = [None if r.reasons is None else reason_names(r.reasons) for r in readings]
    return conform(columns, POWER)


def held_between(readings: Sequence[Reading], start_ns: int, end_ns: int) -> Held:
    """Return what the readings of a span say; of a span too short to have any, the first one after it.

    The readings at hand are copied first: the thread may still be adding to them.
    """
    found = list(readings)
    inside = [r for r in found if start_ns <= r.time_ns <= end_ns] or [r for r in found if r.time_ns > end_ns][:1]
    reasons = [r.reasons for r in inside if r.reasons is not None]
    every = 0
    for bits in reasons:
        every |= bits
    return Held(
        sm_clock_mhz=_of(median, [r.sm_clock_mhz for r in inside]),
        memory_clock_mhz=_of(median, [r.memory_clock_mhz for r in inside]),
        power_w=_of(fmean, [None if r.power_mw is None else r.power_mw / 1e3 for r in inside]),
        temperature_c=_of(max, [r.temperature_c for r in inside]),
        throttle=reason_names(every) if reasons else None,
    )


def _of(statistic: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    present = [float(value) for value in values if value is not None]
    return statistic(present) if present else None
