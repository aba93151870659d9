"""Changes that add up: whole nanoseconds per unit, whose sum over rows and parts is the change of the stage's wall."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from dsocr_nvtx.compare.pairs import Side, StagePair
from dsocr_nvtx.compare.steps import PARTS


def contributions(pair: StagePair) -> list[tuple[int, ...]]:
    """Return, for each row and then each captured row, what each of `PARTS` adds to the change of the wall per unit.

    Steps are averaged over the paired ones; what was captured once is spread over all steps of its run. Each value is
    within 1 ns of the exact one, and they add up exactly: the running sum is rounded, half to even.
    """
    exact = [two - one for one, two in zip(_shares(pair.a), _shares(pair.b), strict=True)]
    width = len(PARTS)
    told = _rounded(exact)
    return [tuple(told[at : at + width]) for at in range(0, len(told), width)]


def _shares(side: Side) -> list[Fraction]:
    ran = side.values[: len(PARTS)].sum(axis=2).T.reshape(-1)
    once = side.captured[: len(PARTS)].T.reshape(-1)
    return [Fraction(n, max(side.units, 1)) for n in ran.tolist()] + [
        Fraction(n, max(side.all_steps, 1)) for n in once.tolist()
    ]


def _rounded(values: Sequence[Fraction]) -> list[int]:
    edges, total = [0], Fraction(0)
    for value in values:
        total += value
        edges.append(round(total))
    return np.diff(edges).tolist() if values else []
