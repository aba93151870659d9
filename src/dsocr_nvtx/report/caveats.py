"""What a reader must know before trusting a figure: what is missing, assumed, distorted or contradictory. In words."""

from collections.abc import Iterator, Mapping

from attrs import frozen

from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.join.served_marks import ServedWork
from dsocr_nvtx.report import words
from dsocr_nvtx.roofline.points import Roofline
from dsocr_nvtx.roofline.soundness import MOST_APART, set_apart_share
from dsocr_nvtx.schema.hardware import DATASHEET


@frozen
class Caveat:
    """One sentence; ``is_grave`` where figures are wrong or missing, not only less sure."""

    text: str
    is_grave: bool = False


_FEW = 0.01
"""Of a report's operations: so many impossible records change no verdict."""


def caveats(found: Roofline, accounting: Accounting) -> list[Caveat]:
    """Return the caveats of a join, grave ones first."""
    every = [
        *_doubts(accounting),
        *_missing(accounting),
        *_contradictions(found),
        *_uncertain(found),
        *_withheld(found),
        *_assumed(found, accounting),
    ]
    return sorted(every, key=lambda one: not one.is_grave)


def _doubts(accounting: Accounting) -> Iterator[Caveat]:
    none = accounting.cost_sources.get("none")
    if none and not accounting.unknown_costs:  # of a join before they were named
        yield Caveat(f"{none:,} ranges have no cost in this report: their work is missing", is_grave=True)
    for what, told in (("is not known", accounting.unknown_costs), ("is contradicted", accounting.contradicted_costs)):
        for stage, sites in told.items():
            yield Caveat(_doubt(stage, sites, what), is_grave=True)
    if accounting.contradiction:
        yield Caveat(f"tensors contradict what costs were derived from: {accounting.contradiction}", is_grave=True)


def _missing(accounting: Accounting) -> Iterator[Caveat]:
    yield from _served(accounting.served)
    for one in accounting.set_apart:
        yield Caveat(f"set apart, as it cannot be: {one}", is_grave=one.records > _FEW * max(accounting.operations, 1))
    if (share := set_apart_share(accounting)) > MOST_APART:
        yield Caveat(f"{share:.0%} of the GPU operations are set apart: no stage is judged", is_grave=True)
    if accounting.graphs.note:
        yield Caveat(accounting.graphs.note, is_grave=True)
    for bucket, count in accounting.buckets.items():
        if bucket != "attributed" and count.operations:
            text = f"not attributed, {bucket.replace('_', ' ')}: {count.operations:,} operations"
            yield Caveat(f"{text}, {words.milliseconds(count.ns)} ms")
    yield from (Caveat(text) for text in words.other_share(accounting.classes))
    for device in accounting.devices:
        unowned = device.idle_ns.get("none", 0)
        if device.wall_ns and unowned > 0.05 * device.wall_ns:
            yield Caveat(
                f"GPU {device.device} is idle outside every range for {words.milliseconds(unowned)} ms, "
                f"{unowned / device.wall_ns:.0%} of its wall time: no stage has it"
            )


def _served(work: ServedWork) -> Iterator[Caveat]:
    """Yield what marks of a serving engine do not say, or say otherwise than the ranges."""
    if work.contradicted:
        text = f"{work.contradicted:,} of {work.steps:,} served steps contradict what the scheduler said"
        yield Caveat(f"{text}: {work.contradiction}", is_grave=True)
    if work.without_range:
        yield Caveat(
            f"{work.without_range:,} served steps have no range in this report: they are missing", is_grave=True
        )
    if work.damaged:
        yield Caveat(f"{work.damaged:,} marks of a serving engine cannot be read, and are left out", is_grave=True)


_NAMED = 3
"""Sites that a sentence names."""


def _doubt(stage: str, sites: Mapping[str, int], what: str) -> str:
    named = ", ".join(f"{site} ({calls:,})" for site, calls in list(sites.items())[:_NAMED])
    more = f" and {len(sites) - _NAMED:,} sites more" if len(sites) > _NAMED else ""
    return f"{stage}: the cost of {sum(sites.values()):,} calls {what}, and no verdict rests on them: {named}{more}"


def _contradictions(found: Roofline) -> Iterator[Caveat]:
    if above := sum(row is True for row in found.rows["above_roof"].to_pylist()):
        text = f"{above} rows took less time than the roofs at the highest clock allow: a cost, roof or time is wrong"
        yield Caveat(text, is_grave=True)


def _uncertain(found: Roofline) -> Iterator[Caveat]:
    for stage in found.stages.to_pylist():
        if doubt := words.doubtful(stage):
            turned = (
                "which could turn the verdict: there is none" if stage["bound"] is None else "too little to turn it"
            )
            yield Caveat(f"{stage['stage']}: {doubt}, {turned}", is_grave=stage["bound"] is None)


def _withheld(found: Roofline) -> Iterator[Caveat]:
    stages = found.stages.to_pylist()
    slower = [f"{s['stage']} {s['dilation']:.2f}x" for s in stages if s["dilation"] is not None and s["dilation"] > 1.1]
    if slower:
        yield Caveat(f"slower while profiled: {', '.join(slower)}; part of the idle time is the profiler's")
    if all(stage["dilation"] is None for stage in stages):
        yield Caveat(
            "how much the profiler slowed this run is not known: record with run --calibrate, join with --run; "
            "idle time includes what watching added"
        )
    for stage in stages:
        if stage["throttle"]:
            yield Caveat(f"{stage['stage']} ran with its clocks held down: {stage['throttle'].replace('+', ', ')}")


def _assumed(found: Roofline, accounting: Accounting) -> Iterator[Caveat]:
    if found.other_gpu:
        yield Caveat(found.other_gpu)
    if not found.roofs.is_known:
        yield Caveat(f"roofs: {found.roofs.source}; so nothing is judged", is_grave=True)
    nominal = DATASHEET.get(found.roofs.device)
    if nominal is not None and found.roofs.source == nominal.source:
        yield Caveat("roofs are the datasheet's, which no kernel reaches: dsocr-nvtx ceilings measures this GPU's")
    experts = (found.rows.schema.metadata or {}).get(b"experts", b"").decode()
    if experts.startswith("expected") or "part" in experts:
        yield Caveat(
            f"experts hit are {experts}: without observing, uniform routing is assumed and bytes are an estimate"
        )
    if found.level != "op":
        yield Caveat(f"ranges were recorded at level {found.level}: rows of kind rest hold all that lies below it")
    if accounting.covered_by_leaves < 0.95:
        yield Caveat(
            f"{1 - accounting.covered_by_leaves:.1%} of the operation time is containers' own (rows of kind rest) or "
            "between ranges, not in a leaf range"
        )
