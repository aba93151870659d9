"""What a gate finds: a ruling on each rule, what they come to, and the table that they are written as."""

import math
from enum import StrEnum

import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.compare.comparison import Comparison
from dsocr_nvtx.compare.rules import Rule
from dsocr_nvtx.schema.comparison import GATE
from dsocr_nvtx.schema.tables import conform


class Outcome(StrEnum):
    """What a rule's values say; the exit code of a gate is that of the worst."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


EXIT_CODES = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 4}


@frozen(kw_only=True)
class Ruling:
    """A rule and what was measured: a change if the rule is relative, else the value; it lies between low and high."""

    rule: Rule
    outcome: Outcome
    unit: str
    baseline: float | None
    value: float
    measured: float
    low: float
    high: float
    reason: str = ""

    @property
    def resolution(self) -> float:
        """How far off its bound what is measured must lie for the rule to be decided; infinite where none decides."""
        return max(self.high - self.measured, self.measured - self.low)


@frozen(kw_only=True, eq=False)
class Gate:
    """Every rule's ruling, and the comparison behind the relative ones."""

    rulings: list[Ruling]
    comparison: Comparison

    @property
    def outcome(self) -> Outcome:
        """A failure wins over what is inconclusive, that over what passes."""
        found = {ruling.outcome for ruling in self.rulings}
        return next(one for one in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS) if one in found)


def gate_table(found: Gate) -> pa.Table:
    """Return GATE: a row per rule."""
    columns: dict[str, object] = {name: [getattr(one, name) for one in found.rulings] for name in ("unit", "reason")}
    columns |= {
        name: [_finite(getattr(one, name)) for one in found.rulings]
        for name in ("baseline", "value", "measured", "low", "high", "resolution")
    }
    columns |= {
        "rule": [one.rule.text for one in found.rulings],
        "outcome": [str(one.outcome) for one in found.rulings],
        "bound": [one.rule.bound for one in found.rulings],
    }
    return conform(columns, GATE, {"outcome": str(found.outcome)})


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
