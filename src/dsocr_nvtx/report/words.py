"""Numbers and verdicts as people read them."""

from collections.abc import Mapping, Sequence

from dsocr_nvtx.join.stalls import Stall
from dsocr_nvtx.schema.records import LayerKind, Stage

Record = Mapping[str, object]

_BOUND_WORDS = {
    "host": "waiting for the host",
    "compute": "compute-bound",
    "memory": "memory-bound",
    "l2": "bound by the L2 cache",
    "queued": "waiting with its work queued",
    "unfused": "losing most to what is not fused",
    "small": "losing most in kernels too small for the GPU",
    "inefficient": "losing most in inefficient kernels",
}


def milliseconds(ns: object) -> str:
    """Return nanoseconds as milliseconds."""
    return f"{number(ns) / 1e6:,.2f}"


def percent(share: object) -> str:
    """Return a share as a percentage, a dash where it is not known."""
    return "-" if share is None else f"{number(share):.1%}"


def decimal(value: object, digits: int = 1) -> str:
    """Return a number with few digits, a dash where it is not known."""
    return "-" if value is None else f"{number(value):,.{digits}f}"


def bound(value: object) -> str:
    """Return what a row is bound by, in words."""
    return "-" if value is None else _BOUND_WORDS.get(str(value), str(value))


def verdict(stage: Record) -> str:
    """Return one sentence: what binds a stage, how much of its wall time that is, and how far the roof is.

    Of several steps both mean and median are told: a few very long ones are in the mean alone.
    """
    wall, busy, idle = (number(stage[name]) for name in ("wall_ns", "busy_owned_ns", "idle_owned_ns"))
    if not wall:
        return f"{stage['stage']}: no device time"
    if stage["stage"] == Stage.HOST:
        return f"host work outside steps: the GPU waits {milliseconds(idle)} ms for it"
    what = _evidence(stage, wall, busy, idle)
    floor = number(stage["roofline_ns"])
    per_step = wall / max(number(stage["steps"]), 1)
    middle = stage.get("median_step_ns")
    usual = ""
    if number(stage["steps"]) > 1:
        usual = f" (mean; median {milliseconds(middle)})" if middle else " (mean)"
    times = f"{wall / floor:.0f}x its roofline time" if floor else "its roofline time is not known"
    doubt = doubtful(stage)
    if doubt and stage["bound"] is None:
        return f"{stage['stage']} is not judged: {doubt}; {milliseconds(per_step)} ms a step{usual}"
    judged = "not judged" if stage["bound"] is None else bound(stage["bound"])
    told = f"{stage['stage']} is {judged}: {what}; {milliseconds(per_step)} ms a step{usual}, {times}"
    return f"{told}; {doubt}, which cannot change that" if doubt else told


def doubtful(row: Record) -> str:
    """Return of how many calls the cost is uncertain, and how much of the busy time they are; nothing where none is."""
    calls = number(row.get("unknown_calls", 0)) + number(row.get("contradicted_calls", 0))
    if not calls:
        return ""
    share = number(row["uncertain_ns"]) / max(number(row["busy_owned_ns"]), 1)
    return f"the cost of {calls:,.0f} calls, {_share(share)} of its busy time, is not known or contradicted"


def _share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 or not part else "less than 1%"


def _evidence(stage: Record, wall: float, busy: float, idle: float) -> str:
    """Return the figures that a stage's bound rests on."""
    name = str(stage["bound"])
    if name == "None" and stage["efficiency"] is None and busy:
        return f"{busy / wall:.0%} busy, with no roofs to hold that against"
    if name == "None":
        return f"idle {idle / wall:.0%} of the time, which being profiled, or what was set apart, may explain by itself"
    if name in ("host", "queued"):
        causes = {cause: number(stage[f"idle_{cause}_ns"]) for cause in _CAUSE_WORDS}
        cause = max(causes, key=lambda one: causes[one]) if name == "host" else name
        return f"idle {idle / wall:.0%} of the time, mostly in {_CAUSE_WORDS[cause]}"
    roof = f"{busy / wall:.0%} busy, at {percent(stage['efficiency'])} of the {_ROOF_WORDS.get(name, 'roof')}"
    shares = {"unfused": ("tax_ns", "tax kernels"), "small": ("small_ns", "short kernels or less than a wave")}
    if name not in shares:
        return roof
    column, what = shares[name]
    return f"{roof}, {number(stage[column]) / max(busy, 1):.0%} of busy time in {what}"


_ROOF_WORDS = {"compute": "compute roof", "memory": "memory roof", "l2": "L2's roof"}
_CAUSE_WORDS = {
    "host": "host code between launches",
    "launch": "launch calls",
    "sync": "synchronising calls",
    "memory": "allocations and copies",
    "queued": "gaps between operations that were launched long before",
}


def place(row: Record) -> str:
    """Return where a row is in the network, like ``decoder.3 experts``; of host work, what it is."""
    if row["kind"] == LayerKind.HOST:
        return str(row["module"])
    layer = "" if row["layer"] is None else f".{row['layer']}"
    return f"{row['module']}{layer} {row['kind']}"


def number(value: object) -> float:
    """Return a value of a row that has to be a number; `TypeError` for any other."""
    if not isinstance(value, int | float):
        raise TypeError(f"not a number: {value!r}")
    return float(value)


def stalls(found: Sequence[Stall], most: int = 3) -> list[str]:
    """Return a line for each of the longest stalls: how long, where, and what the launching thread called meanwhile."""
    lines = []
    for stall in sorted(found, key=lambda one: -one.ns)[:most]:
        where = f" in {stall.stage} step {stall.step}, {stall.path}" if stall.path else ""
        called = ", ".join(f"{call.name} {milliseconds(call.ns)} ms" for call in stall.calls[:2])
        stack = f"; called from {' < '.join(stall.stack[:3])}" if stall.stack else ""
        line = f"longest idle: GPU {stall.device}, {milliseconds(stall.ns)} ms{where}"
        lines.append(f"{line}; CUDA calls meanwhile: {called or 'none'}{stack}")
    return lines


def other_share(classes: Mapping[str, int]) -> list[str]:
    """Return a line on how much busy time went to kernels that no rule knows; none where all are known."""
    other, total = classes.get("other", 0), sum(classes.values())
    return [f"kernels of no class we know: {percent(other / total)} of busy time"] if other else []
