"""SERVED_STEPS: what each step of a serving engine worked on, how long it took, and whether its ranges say the same.

Contract: a step is the range that its mark names; what is inside is found by parents. Rows, keys and pairs are sums
over the sequences that the mark tells, exact; costs are sums over the ranges inside, but those of images: they do not
follow from the sequences.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import Ints, Places, coded, known, numbers, rows_with
from dsocr_nvtx.join.events import parent_rows, rows_of_events
from dsocr_nvtx.join.served_marks import ServedMarks, ServedWork
from dsocr_nvtx.join.served_split import prefill_part
from dsocr_nvtx.schema.records import STEP_PREFIX, CostState, Stage
from dsocr_nvtx.schema.served import ServedMark
from dsocr_nvtx.schema.served_tables import COSTS, SERVED_STEPS
from dsocr_nvtx.schema.shapes import causal_pairs
from dsocr_nvtx.schema.tables import conform

_MODEL = "model"
_BATCHED = (Stage.PREFILL, Stage.DECODE, Stage.MIXED)


@frozen(eq=False)
class Steps:
    """The steps that have a range: their marks, their rows in MEASURED, and per row of MEASURED its step, or -1."""

    marks: Sequence[ServedMark]
    rows: Places
    inside: Ints

    @classmethod
    def of(cls, marks: ServedMarks, ranges: pa.Table, where: str) -> "Steps":
        """Find them; ``where`` names the report in refusals."""
        pid, event = np.array([(pid, mark.event_id) for pid, mark in marks.steps], np.int64).reshape(-1, 2).T
        rows = rows_of_events(ranges, pid, event).astype(np.int64)
        paths, words = coded(ranges, "path")
        is_step = np.array([word.startswith(STEP_PREFIX) for word in words], bool)
        rows[(rows >= 0) & ~is_step[paths[rows]]] = -1
        place = np.full(len(ranges) + 1, -1)  # the last stands for no row
        found = np.flatnonzero(rows >= 0)
        place[rows[found]] = np.arange(len(found))
        inside, parent = place[:-1].copy(), parent_rows(ranges, where)
        above = parent.copy()
        while (open_ := (inside < 0) & (above >= 0)).any():
            inside[open_], above[open_] = place[above[open_]], parent[above[open_]]
        told = [mark for _, mark in marks.steps]
        return cls([told[at] for at in found], rows[found], inside)

    def total(self, values: Ints) -> Ints:
        """Return, per step, the sum over the rows inside."""
        total = np.zeros(len(self.rows) + 1, np.int64)
        np.add.at(total, self.inside, values)
        return total[:-1]


def served_steps(marks: ServedMarks, steps: Steps, ranges: pa.Table) -> tuple[pa.Table, ServedWork]:
    """Return SERVED_STEPS of a MEASURED table, and how much of what marks tell fits it."""
    counts = _counts(steps.marks)
    agrees, first = _agreement(steps, counts, ranges)
    columns: dict[str, object] = {
        **{name: numbers(ranges, name)[steps.rows] for name in ("pid", "event_id", "step", "start_ns", "end_ns")},
        **counts,
        **_costs(steps, counts, ranges),
        **{name: steps.total(numbers(ranges, name)) for name in ("busy_owned_ns", "idle_owned_ns", "wall_ns")},
        "stage": ranges["stage"].take(pa.array(steps.rows)),
        "device": _devices(steps, ranges),
        "padded_rows": [mark.padded_rows or None for mark in steps.marks],
        "agrees": agrees,
        "requests": [[one.name for one in mark.sequences] for mark in steps.marks],
    }
    work = ServedWork(
        steps=len(steps.marks),
        without_range=len(marks.steps) - len(steps.marks),
        contradicted=agrees.count(False),
        contradiction=first,
        damaged=marks.damaged,
        requests=len({mark.name for *_, mark in marks.requests}),
    )
    return conform(columns, SERVED_STEPS), work


def _counts(marks: Sequence[ServedMark]) -> dict[str, Ints]:
    """Return what sequences come to in each step, all of them and those in prefill."""
    each = [
        (step, not one.decodes, one.rows, one.keys, causal_pairs(one.rows, one.keys))
        for step, mark in enumerate(marks)
        for one in mark.sequences
    ]
    step, prefills, *told = np.array(each, np.int64).reshape(-1, 5).T
    found = {}
    for name, values in zip(("rows", "keys", "pairs"), told, strict=True):
        found[name], found[f"{name}_prefill"] = (_by_step(step, part, marks) for part in (values, values * prefills))
    found["sequences_prefill"] = _by_step(step, prefills, marks)
    found["sequences_decode"] = _by_step(step, 1 - prefills, marks)
    return found


def _by_step(step: Ints, values: Ints, marks: Sequence[ServedMark]) -> Ints:
    total = np.zeros(len(marks), np.int64)
    np.add.at(total, step, values)
    return total


def _agreement(steps: Steps, counts: Mapping[str, Ints], ranges: pa.Table) -> tuple[list[bool | None], str]:
    """Return whether each step's ranges tell what its mark does, None where they do not say; the first difference."""
    model = np.flatnonzero(rows_with(ranges, "path", _MODEL) & ~rows_with(ranges, "cost_state", CostState.UNKNOWN))
    model = model[numbers(ranges, "rows")[model] > 0]
    only = np.zeros(len(ranges), np.int64)
    only[model] = 1
    says = steps.total(only) > 0
    sequences = counts["sequences_prefill"] + counts["sequences_decode"]
    pairs = {"sequences": ("batch", sequences), "rows": ("rows", counts["rows"]), "keys": ("keys", counts["keys"])}
    told = {what: (steps.total(numbers(ranges, column) * only), ours) for what, (column, ours) in pairs.items()}
    stage, stages = coded(ranges, "stage")
    agrees: list[bool | None] = []
    first = ""
    for at, mark in enumerate(steps.marks):
        differs = [f"{int(a[at])} {what}, not {int(b[at])}" for what, (a, b) in told.items() if a[at] != b[at]]
        found = differs if says[at] and mark.sequences else []
        is_called = stages[stage[steps.rows[at]]]
        if is_called in _BATCHED and mark.sequences and is_called != (expected := _stage_of(mark)):
            found = [*found, f"stage {is_called}, not {expected}"]
        agrees.append(False if found else True if says[at] and mark.sequences else None)
        first = first or (f"step of event {mark.event_id}: its ranges tell {'; '.join(found)}" if found else "")
    return agrees, first


def _stage_of(mark: ServedMark) -> Stage:
    kinds = {one.decodes for one in mark.sequences}
    return Stage.MIXED if len(kinds) > 1 else Stage.DECODE if kinds == {True} else Stage.PREFILL


_FEATURES = ("rows", "keys", "pairs")


def _costs(steps: Steps, counts: Mapping[str, Ints], ranges: pa.Table) -> dict[str, pa.Array]:
    """Return each step's costs, null where one inside is not certain, and their prefill's part."""
    of_sequences = (~rows_with(ranges, "stage", Stage.VISION)).astype(np.int64)
    unsure = steps.total(of_sequences * ~rows_with(ranges, "cost_state", CostState.KNOWN)) > 0
    prefills, decodes = counts["sequences_prefill"], counts["sequences_decode"]
    whole = np.stack([*(counts[name] for name in _FEATURES), prefills + decodes], axis=1)
    part = np.stack([*(counts[f"{name}_prefill"] for name in _FEATURES), prefills], axis=1)
    every, prefill = ([tuple(line) for line in lines.tolist()] for lines in (whole, part))
    found: dict[str, pa.Array] = {}
    for name in COSTS:
        found[name] = pa.array(steps.total(numbers(ranges, name) * of_sequences), mask=unsure)
        found[f"{name}_prefill"] = pa.array(prefill_part(found[name].to_pylist(), every, prefill), pa.int64())
    return found


def _devices(steps: Steps, ranges: pa.Table) -> pa.Array:
    """Return the device of each step's longest row; null where none of them names one."""
    device = np.full(len(steps.rows) + 1, -1)
    rows = np.flatnonzero(known(ranges, "device") & (steps.inside >= 0))
    rows = rows[np.argsort(numbers(ranges, "busy_owned_ns")[rows], kind="stable")]
    device[steps.inside[rows]] = numbers(ranges, "device")[rows]  # of several, the last one written stays
    return pa.array(device[:-1].astype(np.int32), mask=device[:-1] < 0)
