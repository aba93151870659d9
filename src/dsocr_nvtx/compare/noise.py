"""How far a measured change may be from the true one: bounds from repeated steps, and a model where nothing repeats.

Repeated: the 20 % trimmed mean of paired differences and its t interval (Tukey and McLaughlin), widened where
successive differences are correlated. Not repeated: the spread that one call's kernels show between two runs of the
same code, as `Spread` has it. Two equal runs have no bound at all: every difference is zero.
"""

from statistics import NormalDist

import numpy as np
from attrs import frozen

from dsocr_nvtx.roofline.least import Floats

ENOUGH_STEPS = 8
"""Paired steps that a bound is taken from; of fewer, the model of a single call is used."""
_TRIM = 0.2
_CONFIDENCE = 0.998
"""Two-sided, of one row: of 300 rows in which nothing changed, less than one is expected outside its bound."""


@frozen
class Bound:
    """A change in ns per unit, B less A, and half the width of its interval."""

    change: float
    half: float


def repeated(differences: Floats) -> Bound:
    """Return the trimmed mean of paired differences, in order of time, and half its interval."""
    count = len(differences)
    cut = int(_TRIM * count)
    ordered = np.sort(differences)
    kept = ordered[cut : count - cut]
    if ordered[0] == ordered[-1]:
        return Bound(float(ordered[0]), 0.0)
    low, high = kept[0], kept[-1]
    settled = np.clip(differences, low, high)
    error = settled.std(ddof=1) / ((1 - 2 * _TRIM) * np.sqrt(count)) * np.sqrt(_repeats(settled))
    return Bound(float(kept.mean()), float(_quantile(len(kept) - 1) * error))


def typical(values: Floats) -> float:
    """Return the 20 % trimmed mean, what a change is held against."""
    cut = int(_TRIM * len(values))
    return float(np.sort(values)[cut : len(values) - cut].mean()) if len(values) else 0.0


def _repeats(values: Floats) -> float:
    """Return how many times fewer independent values there are: 1 + 2 sum of the leading positive autocorrelations.

    Negative ones are not counted: they would narrow the bound.
    """
    centred = values - values.mean()
    power = float(centred @ centred)
    total = 1.0
    for lag in range(1, max(len(values) // 4, 1) + 1):
        # Around the mean of few values, correlations come out too low by about 1 / count.
        correlation = float(centred[:-lag] @ centred[lag:]) / power + 1 / len(values) if power else 0.0
        if correlation <= 0:
            break
        total += 2 * correlation
    return total


def _quantile(freedom: int) -> float:
    """Return Student's t by its expansion around the normal quantile (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(0.5 + _CONFIDENCE / 2)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


@frozen
class Spread:
    """How busy times of a row that ran once differ between two runs of the same code, as a standard deviation.

    It is ``sqrt((relative x time)^2 + launches x launch_ns^2)``, times ``factor``: 1, or more where the rows of this
    pair of runs scatter more than that. Measured on an H200; `reports/diff_check.md` has the residuals.
    """

    relative: float = 0.004
    launch_ns: float = 130.0
    factor: float = 1.0

    def of(self, time: Floats | float, launches: Floats | float) -> Floats:
        """Return the standard deviation in ns."""
        return np.asarray(self.factor * np.sqrt((self.relative * np.asarray(time)) ** 2 + launches * self.launch_ns**2))


SINGLE = 2.6
"""Standard deviations of `Spread` that a row which ran once must move by: of rows that did not change, 1 % seem to."""


def fitted(residuals: Floats, time: Floats, launches: Floats) -> Spread:
    """Return the spread with its factor raised to what the residuals show; robust against a few rows that changed."""
    usual = Spread()
    if len(residuals) < ENOUGH_STEPS:
        return usual
    scale = float(np.median(np.abs(residuals) / usual.of(time, launches)) / 0.6745)
    return Spread(factor=max(scale, 1.0))
