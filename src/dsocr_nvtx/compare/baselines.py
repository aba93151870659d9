"""A change against several runs of the baseline's code: how much runs differ is seen then, and need not be allowed for.

What is measured is the mean of the changes against each, in logarithms. Where a further run of the same code would lie
is Student's prediction interval of the baselines' own scatter: t x s x sqrt(1 + 1 / n).
"""

from collections.abc import Sequence

import numpy as np
from attrs import frozen

FEWEST = 3
"""Runs that scatter is taken from, at least."""
_STUDENT = (6.965, 4.541, 3.747, 3.365, 3.143, 2.998, 2.896, 2.821, 2.764, 2.718, 2.681, 2.650, 2.624, 2.602, 2.583)
"""Student's t, 99 % one-sided, for 2 degrees of freedom and more; beyond, the last, which is wider than need be."""


@frozen
class Predicted:
    """A relative change and the interval that it lies in, as shares."""

    change: float
    low: float
    high: float


def against_several(changes: Sequence[float]) -> Predicted:
    """Return the change against several baselines, of the changes against each: at least `FEWEST`, above -1."""
    logs = np.log1p(np.array(changes, np.float64))
    count = len(logs)
    freedom = min(count - FEWEST, len(_STUDENT) - 1)
    half = _STUDENT[freedom] * float(logs.std(ddof=1)) * float(np.sqrt(1 + 1 / count))
    middle = float(logs.mean())
    low, change, high = (float(np.expm1(at)) for at in (middle - half, middle, middle + half))
    return Predicted(change, low, high)
