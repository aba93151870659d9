"""What of a mixed step's cost is its prefill's, exactly: no time is split, and nothing is estimated.

A cost that is its sequences' own is a sum over them, linear in their rows, keys, pairs and number. So many steps of one
run are so many equations of it; where they agree and together determine what the prefill's part of a step is, that part
is exact. Where they contradict each other, or leave it open, it is not told.
"""

from collections.abc import Sequence
from fractions import Fraction

Features = tuple[int, ...]
"""What of each kind some sequences have, as rows, keys, pairs and their number."""


class LinearCost:
    """A cost as the equations of some steps determine it: for the features that these span, and no others."""

    def __init__(self, equations: Sequence[tuple[Features, int]]) -> None:
        self._basis: list[tuple[int, list[Fraction], Fraction]] = []
        self.contradicts = False
        for features, cost in dict.fromkeys(equations):
            self._learn(features, cost)

    def _learn(self, features: Features, cost: int) -> None:
        rest, known = self._reduced(features)
        pivot = next((at for at, value in enumerate(rest) if value), None)
        if pivot is not None:
            scale = rest[pivot]
            self._basis.append((pivot, [value / scale for value in rest], (cost - known) / scale))
        elif known != cost:
            self.contradicts = True

    def _reduced(self, features: Features) -> tuple[list[Fraction], Fraction]:
        """Return what of the features is beyond those that are known, and the cost of what is not."""
        rest, known = [Fraction(value) for value in features], Fraction(0)
        for pivot, direction, cost in self._basis:
            if factor := rest[pivot]:
                rest = [value - factor * step for value, step in zip(rest, direction, strict=True)]
                known += factor * cost
        return rest, known

    def of(self, features: Features) -> int | None:
        """Return what sequences of these features cost, None where the steps do not determine it as a whole number."""
        rest, known = self._reduced(features)
        is_told = not self.contradicts and not any(rest) and known.denominator == 1 and known >= 0
        return int(known) if is_told else None


def prefill_part(
    costs: Sequence[int | None], every: Sequence[Features], prefill: Sequence[Features]
) -> list[int | None]:
    """Return, per step, what of a cost is that of the sequences in prefill; None where it cannot be told.

    ``every`` and ``prefill`` are features of all sequences of each step, and of those in prefill. A step of one kind
    alone needs no equation.
    """
    known = [(features, cost) for features, cost in zip(every, costs, strict=True) if cost is not None]
    is_mixed = any(any(part) and part != whole for whole, part in zip(every, prefill, strict=True))
    linear = LinearCost(known if is_mixed else [])
    found: list[int | None] = []
    for cost, whole, part in zip(costs, every, prefill, strict=True):
        told = cost if part == whole else 0 if not any(part) else linear.of(part)
        found.append(None if cost is None or told is None or told > cost else told)
    return found
