"""What a survey can measure: one call, the work it does, and how to set it up and take it down again."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from statistics import median, quantiles
from typing import Protocol

from attrs import frozen

Call = Callable[[], object]


@frozen(kw_only=True)
class Subject:
    """A call to be timed. ``work`` is what one call does, in FLOP or bytes; ``make`` holds its memory while open."""

    quantity: str
    kernel: str
    work: float
    unit: str
    make: Callable[[], AbstractContextManager[Call]]
    dtype: str | None = None
    shape: str = ""
    bytes: int = 0


@frozen(kw_only=True)
class Series:
    """Timed windows: ns per call in each, and the host's clock (perf_counter) around them all."""

    ns: tuple[float, ...]
    start_ns: int
    end_ns: int

    def later_half(self) -> "Series":
        """Return the second half of the windows."""
        kept = self.ns[len(self.ns) // 2 :]
        return Series(ns=kept, start_ns=(self.start_ns + self.end_ns) // 2, end_ns=self.end_ns)

    def rates(self, work: float) -> tuple[float, float]:
        """Return the median rate of ``work`` per second, and half the distance between the quartiles."""
        return centre([work / ns * 1e9 for ns in self.ns])


def centre(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and half the distance between the quartiles; of a single value, a spread of zero."""
    if len(values) < 2:
        return median(values), 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return median(values), (high - low) / 2


class Timer(Protocol):
    """Times calls on a device."""

    def warm_up(self, call: Call) -> float:
        """Make a few calls, and return about how many ns one takes."""
        ...

    def pause(self, seconds: float) -> None:
        """Leave the device idle, so that it cools and its clocks recover."""
        ...

    def time(self, call: Call, about_ns: float, seconds: float) -> Series:
        """Make calls for about so long, back to back, and return their windows."""
        ...
