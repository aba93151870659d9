"""The rules of a gate: ``STAGE[.MODULE][.KIND][.LAYER].METRIC OP BOUND``.

``decode.busy_ns<=+3%``, ``vision.efficiency>=0.4``, ``decode.experts.3.busy_ns<=55us``. Times are those of a typical
step of the stage (trimmed mean over its steps), of all matching rows together; what is captured into a CUDA graph does
not count. A bound in per cent is a change against the baseline; any other is a value: of a time in ns, us, ms or s.
Of a metric that is a share itself (efficiency, mfu, mbu) a change needs its sign, and a value is written as 0.12: what
``efficiency>=12%`` means is not guessed.
"""

import re
from enum import StrEnum

from attrs import frozen

from dsocr_nvtx.compare.steps import PARTS
from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.schema.records import Stage

TIMES: dict[str, tuple[str, ...]] = {
    "busy_ns": PARTS[:1],
    "busy_owned_ns": PARTS[:1],
    "idle_ns": PARTS[1:],
    "idle_owned_ns": PARTS[1:],
    "wall_ns": PARTS,
    **{f"idle_{cause}_ns": (cause,) for cause in PARTS[1:-1]},
}
"""Metrics that are times, and the parts of the wall that each sums."""
RATES = {"tokens_per_s": "wall_ns", "efficiency": "busy_ns", "mfu": "wall_ns", "mbu": "wall_ns"}
"""Metrics that are something over a time, and that time."""
STAGE_ONLY = ("tokens_per_s", "mfu", "mbu")
SHARES = ("efficiency", "mfu", "mbu")
METRICS = (*TIMES, *RATES, "launches")

_UNITS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
_RULE = re.compile(
    r"\s*(?P<path>[A-Za-z_][\w.]*?)\s*(?P<op><=|>=|<|>)\s*(?P<number>[+-]?(\d+\.?\d*|\.\d+))\s*(?P<unit>%|[a-z]*)\s*"
)
_EXAMPLES = "for example decode.busy_ns<=+3%, decode.wall_ns<=15ms, vision.efficiency>=0.4"


class Operator(StrEnum):
    """How a value and a bound must stand."""

    AT_MOST = "<="
    AT_LEAST = ">="
    BELOW = "<"
    ABOVE = ">"

    def holds(self, value: float, bound: float) -> bool:
        """Say whether a value keeps the bound."""
        if self is Operator.AT_MOST:
            return value <= bound
        if self is Operator.AT_LEAST:
            return value >= bound
        return value < bound if self is Operator.BELOW else value > bound


@frozen(kw_only=True)
class Rule:
    """A parsed rule. ``words`` narrow rows by module or kind, ``layer`` by layer; ``bound`` is a share or a value."""

    text: str
    stage: str
    words: tuple[str, ...]
    layer: int | None
    metric: str
    operator: Operator
    bound: float
    relative: bool


def parse_rule(text: str) -> Rule:
    """Return a rule; a usage error says what is wrong with it, and where."""
    found = _RULE.fullmatch(text)
    if found is None:
        raise UsageError(f"rule {text!r}: not STAGE[.MODULE][.KIND][.LAYER].METRIC<=BOUND; {_EXAMPLES}")
    stage, *middle = found["path"].split(".")
    metric = middle.pop() if middle else ""
    if stage not in {str(known) for known in Stage}:
        raise UsageError(f"rule {text!r}: {stage!r} is no stage; begin with {', '.join(Stage)}")
    if metric not in METRICS:
        raise UsageError(f"rule {text!r}: {metric!r} is no metric; end with {', '.join(METRICS)}")
    layers = [int(word) for word in middle if word.isdecimal()]
    words = tuple(word for word in middle if not word.isdecimal())
    if len(layers) > 1 or len(words) > 2 or "" in words:
        raise UsageError(f"rule {text!r}: between stage and metric stand a module, a kind and a layer at most")
    if middle and metric in STAGE_ONLY:
        raise UsageError(f"rule {text!r}: {metric} is one of a stage, not of its rows")
    bound, relative = _bound(text, metric, found["number"], found["unit"])
    return Rule(
        text=text.strip(), stage=stage, words=words, layer=layers[0] if layers else None, metric=metric,
        operator=Operator(found["op"]), bound=bound, relative=relative,
    )  # fmt: skip


def _bound(text: str, metric: str, digits: str, unit: str) -> tuple[float, bool]:
    number = float(digits)
    if unit == "%":
        if metric in SHARES and digits[0] not in "+-":
            value, change = f"{number / 100:g} for the value", f"+{digits}% for a change against the baseline"
            raise UsageError(f"rule {text!r}: {metric} is a share itself; write {value}, or {change}")
        return number / 100, True
    if metric in TIMES:
        if unit not in _UNITS:
            raise UsageError(f"rule {text!r}: a time needs a unit: %, {', '.join(_UNITS)}")
        return number * _UNITS[unit], False
    if unit:
        raise UsageError(f"rule {text!r}: {metric} has no unit {unit!r}; give a number, or % for a change")
    return number, False
