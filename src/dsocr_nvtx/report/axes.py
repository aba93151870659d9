"""Logarithmic axes: from values to places on a drawing, and the powers of ten that are labelled."""

import math

from attrs import frozen

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


@frozen
class LogAxis:
    """A logarithmic axis: values from ``low`` to ``high`` lie between the places ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a positive value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def decades(self) -> list[float]:
        """Return the powers of ten on the axis."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]


def around(values: list[float], room: float = 2.0) -> tuple[float, float]:
    """Return bounds of an axis that holds all of the positive values with some room at either end."""
    return min(values) / room, max(values) * room


def scaled(value: float, unit: str) -> str:
    """Return a value with the prefix that leaves one to three digits before the point."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
