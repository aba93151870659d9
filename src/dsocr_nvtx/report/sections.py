"""Sections of the review page that are text and tables: plain data with every number already in words.

Exact numbers stand beside the words wherever a total is shown, so that a reader (and a test) can add them up again.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from attrs import frozen

from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.join.stalls import Stall
from dsocr_nvtx.report import words
from dsocr_nvtx.report.advice import advice
from dsocr_nvtx.report.axes import scaled
from dsocr_nvtx.roofline.budget import OUTSIDE, PARTS, budget, outside

Row = Mapping[str, object]

PART_WORDS = {
    "roofline": ("roofline time", "the least time that the work needs on the roofs"),
    "inefficiency": ("inefficiency", "busy beyond the roofline time, in kernels that do the work"),
    "tax": ("tax kernels", "copies, casts, pointwise operations: what fused kernels would do in passing"),
    "idle_host": ("idle: host code", "the GPU waits for Python and what it calls, between CUDA calls"),
    "idle_launch": ("idle: launch calls", "the GPU waits inside a call that launches work"),
    "idle_sync": ("idle: synchronising", "the GPU waits inside a call that waits for the GPU"),
    "idle_memory": ("idle: allocation, copies", "the GPU waits inside an allocation or a copy call"),
    "idle_queued": (
        "idle: work queued",
        "the GPU waits long after the launch call returned: gaps in graphs, dependencies",
    ),
    "unattributed": ("unattributed", "operations that no hooked call owns"),
    "idle_none": ("idle: outside ranges", "idle while no hooked call was open"),
}
"""Every part of the time budget: its name, and what it means."""


@frozen
class Part:
    """A part of a stage's time: exact, in words, and as a share of the stage's wall time in percent."""

    key: str
    name: str
    ns: int
    text: str
    percent: float


@frozen
class Card:
    """What a stage comes to: its verdict, and its time budget as shares of its wall time."""

    stage: str
    who: str
    bound: str
    sentence: str
    detail: str
    advice: tuple[str, ...]
    parts: tuple[Part, ...]


@frozen
class BudgetLine:
    """One part across all stages: exact values in column order; the last is the total."""

    key: str
    name: str
    meaning: str
    values: tuple[int, ...]


@frozen
class StallLine:
    """Long idle times of one place and one next operation: together, the longest, where, and what was called then."""

    ns: int
    count: int
    longest: str
    where: str
    steps: str
    cause: str
    before: str
    calls: str
    stack: str


@frozen
class Traffic:
    """A stage's bytes by the model: lower bound in parts, and what the implementation moves operator by operator."""

    stage: str
    who: str
    parts: tuple[tuple[str, int, str, float], ...]
    total: int
    op_bytes: int
    ratio: str
    rate: str


def several(rows: Sequence[Row]) -> bool:
    """Say whether rows are of more than one process or GPU."""
    return len({(row["rank"], row["pid"], row["device"]) for row in rows}) > 1


def who(row: Row, *, shown: bool) -> str:
    """Return which process and GPU a row is of, where that is to be shown."""
    gpu = "" if row["device"] is None else f", GPU {row['device']}"
    return f"rank {row['rank']}, process {row['pid']}{gpu}" if shown else ""


def stage_labels(stages: Sequence[Row]) -> list[str]:
    """Return a name for each row of a STAGES table: the stage, and whose it is where there are several of the name."""
    count = Counter(str(stage["stage"]) for stage in stages)
    named = ((str(stage["stage"]), who(stage, shown=count[str(stage["stage"])] > 1)) for stage in stages)
    return [f"{name} ({whose})" if whose else name for name, whose in named]


def cards(stages: Sequence[Row], rows: Sequence[Row], rungs: Sequence[Row], stalls: Sequence[Stall]) -> list[Card]:
    """Return a card for each stage: its verdict first, last what would help by the ladder and the stalls."""
    return [
        Card(
            stage=str(stage["stage"]),
            who=who(stage, shown=several(stages)),
            bound=str(stage["bound"] or "open"),
            sentence=words.verdict(stage),
            detail=_detail(stage, _of(stage, rows)),
            advice=tuple(advice(stage, rungs, stalls)),
            parts=_parts(budget(_of(stage, rows))),
        )
        for stage in stages
    ]


def _of(stage: Row, rows: Sequence[Row]) -> list[Row]:
    keys = ("pid", "device", "stage")
    return [row for row in rows if all(row[key] == stage[key] for key in keys)]


def _detail(stage: Row, rows: Sequence[Row]) -> str:
    """Return what the verdict leaves open: the row that loses most, and the tax."""
    said = []
    worst = max(rows, key=lambda row: words.number(row["lost_ns"]), default=None)
    busy, tax, wall = (words.number(stage[name]) for name in ("busy_owned_ns", "tax_ns", "wall_ns"))
    if worst is not None and wall:
        said.append(f"most is lost in {words.place(worst)}, {words.number(worst['lost_ns']) / wall:.0%} of the stage")
    if busy:
        said.append(f"{tax / busy:.0%} of busy time is tax kernels")
    return "; ".join(said)


def _parts(found: Mapping[str, int]) -> tuple[Part, ...]:
    wall = sum(found.values())
    return tuple(
        Part(key, PART_WORDS[key][0], ns, words.milliseconds(ns), round(100 * ns / wall, 3))
        for key, ns in found.items()
        if ns
    )


def budget_lines(stages: Sequence[Row], rows: Sequence[Row], accounting: Accounting) -> list[BudgetLine]:
    """Return the time budget: a column per stage, one for what is outside all stages, and the total."""
    columns = [budget(_of(stage, rows)) for stage in stages] + [outside(rows, accounting)]
    lines = []
    for key in PARTS + OUTSIDE:
        values = [column.get(key, 0) for column in columns]
        lines.append(BudgetLine(key, *PART_WORDS[key], (*values, sum(values))))
    walls = [sum(column.values()) for column in columns]
    lines.append(BudgetLine("wall", "wall time", "all of the above", (*walls, sum(walls))))
    return lines


def stall_lines(accounting: Accounting, most: int = 8) -> list[StallLine]:
    """Return the longest stalls, those of one place and one next operation together, longest sum first."""
    alike: dict[tuple[object, ...], list[Stall]] = {}
    for stall in accounting.stalls:
        alike.setdefault((stall.device, stall.pid, stall.path, stall.stage, stall.next_operation), []).append(stall)
    lines = [_stall_line(sorted(found, key=lambda one: -one.ns)) for found in alike.values()]
    return sorted(lines, key=lambda line: -line.ns)[:most]


def _stall_line(found: Sequence[Stall]) -> StallLine:
    first = found[0]
    longest = first.calls[0] if first.calls else None
    steps = sorted({stall.step for stall in found if stall.step is not None})
    return StallLine(
        ns=sum(stall.ns for stall in found),
        count=len(found),
        longest=words.milliseconds(first.ns),
        where=first.path or "outside every range",
        steps=f"{first.stage} {', '.join(map(str, steps))}" if steps else "",
        cause=f"in {longest.name}"
        if longest is not None and 2 * longest.ns > first.ns
        else "host code, not in a CUDA call",
        before=first.next_operation or "",
        calls=", ".join(f"{call.calls:,}x {call.name} {words.milliseconds(call.ns)} ms" for call in first.calls[:3]),
        stack=" < ".join(first.stack[:4]),
    )


_TRAFFIC = {
    "weights": "weight_bytes",
    "activations": "activation_bytes",
    "KV read": "kv_read_bytes",
    "KV written": "kv_write_bytes",
}


def traffic(stages: Sequence[Row]) -> list[Traffic]:
    """Return each stage's bytes by the model, and its rate over the stage's busy time."""
    found = []
    for stage in stages:
        parts = {name: int(words.number(stage[column])) for name, column in _TRAFFIC.items()}
        total, moved = sum(parts.values()), int(words.number(stage["op_bytes"]))
        rate = stage["achieved_gbps"]
        found.append(
            Traffic(
                stage=str(stage["stage"]),
                who=who(stage, shown=several(stages)),
                parts=tuple(
                    (n, v, scaled(v, "B"), round(100 * v / total, 3) if total else 0.0) for n, v in parts.items()
                ),
                total=total,
                op_bytes=moved,
                ratio=f"{moved / total:.2f}x the lower bound" if total else "-",
                rate="-" if rate is None else scaled(words.number(rate) * 1e9, "B/s"),
            )
        )
    return found


ENERGY_COLUMNS = ("stage", "source", "seconds", "joules", "+-", "tokens/J", "W", "SM clock", "held down by", "verdict")


def energy_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the energy of each stage, in the order of ENERGY_COLUMNS."""
    return [
        (
            str(row["stage"]), str(row["source"]), words.decimal(row["seconds"], 2), words.decimal(row["joules"], 1),
            words.decimal(row["uncertainty_j"], 1), words.decimal(row["tokens_per_joule"], 2),
            words.decimal(row["power_w"], 0), words.decimal(row["sm_clock_mhz"], 0),
            str(row["throttle"] or "-"), str(row["verdict"]),
        )
        for row in rows
    ]  # fmt: skip
