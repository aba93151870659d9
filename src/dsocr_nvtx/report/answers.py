"""What a join says, as an assistant asks for it: each answer with its figures, and the table and row each is from.

Plain data, ready for JSON. Nothing is written, and no figure is made here that the tables do not have.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict

from dsocr_nvtx.compare.comparison import compare
from dsocr_nvtx.compare.gate import gate
from dsocr_nvtx.compare.outs import read_out
from dsocr_nvtx.compare.rules import parse_rule
from dsocr_nvtx.compare.rulings import gate_table
from dsocr_nvtx.report import words
from dsocr_nvtx.report.advice import advice
from dsocr_nvtx.report.causes import Sort, cause_values, flat, ranked
from dsocr_nvtx.report.opened import open_joined
from dsocr_nvtx.report.sections import budget_lines, stage_labels
from dsocr_nvtx.roofline.ladder import short_ladder

Answer = dict[str, Any]
MOST = 50
"""Rows of an answer, whatever is asked for: an assistant reads them all."""


def _evidence(table: str, row: int, values: Mapping[str, object]) -> Answer:
    """Return figures with where they stand: the file of the join's directory, and the row in it, from 0."""
    return {"table": f"{table}.arrow", "row": row, **values}


def _some(count: int) -> int:
    return max(1, min(count, MOST))


def verdict(out: str) -> Answer:
    """Say what binds each stage, in a sentence, with what would help and the figures that it rests on."""
    opened = open_joined(Path(out))
    stages = opened.roofline.stages.to_pylist()
    rungs = short_ladder(opened.accounting.operations, lambda: opened.kernels, opened.roofline.stages)
    return {
        "stages": [
            {
                "verdict": words.verdict(stage),
                "advice": list(advice(stage, rungs, opened.accounting.stalls)),
                "evidence": _evidence("stages", at, stage),
            }
            for at, stage in enumerate(stages)
        ]
    }


def budget(out: str) -> Answer:
    """Say where all of the GPU's time went, in ns, by part and stage; all parts add up to the wall time."""
    opened = open_joined(Path(out))
    stages, rows = opened.roofline.stages.to_pylist(), opened.roofline.rows.to_pylist()
    titles = [*stage_labels(stages), "outside", "total"]
    return {
        "evidence": "sums over the rows of roofline.arrow of each stage; outside: devices in join.json",
        "parts": [
            {"part": line.name, "meaning": line.meaning, "ns": dict(zip(titles, line.values, strict=True))}
            for line in budget_lines(stages, rows, opened.accounting)
        ],
    }


def rows(out: str, stage: str = "", count: int = 10) -> Answer:
    """Return the rows (stage, module, kind, layer) that lose most time, with all their figures."""
    every = enumerate(open_joined(Path(out)).roofline.rows.to_pylist())
    mine = [_evidence("roofline", at, row) for at, row in every if not stage or row["stage"] == stage]
    return {"rows": mine[: _some(count)], "more": max(len(mine) - _some(count), 0)}


def kernels(out: str, stage: str = "", count: int = 10) -> Answer:
    """Return the kernels that take longest, by stage and name."""
    every = enumerate(open_joined(Path(out)).kernels_summary)
    mine = [_evidence("kernels_summary", at, row) for at, row in every if not stage or row["stage"] == stage]
    return {"kernels": mine[: _some(count)], "more": max(len(mine) - _some(count), 0)}


def stalls(out: str, count: int = 10) -> Answer:
    """Return the longest idle times of the GPU: where, in which step, and what the host called meanwhile."""
    opened = open_joined(Path(out))
    order = sorted(enumerate(opened.accounting.stalls), key=lambda one: -one[1].ns)
    return {
        "stalls": [
            {"file": "join.json", "entry": f"stalls[{at}]", **asdict(stall)} for at, stall in order[: _some(count)]
        ]
    }


def diff(a: str, b: str, count: int = 10) -> Answer:
    """Compare two joins, noise counted: each stage, and the kernels, layers and waits that made the difference."""
    found = compare(read_out(Path(a)), read_out(Path(b)))
    return {
        "a": found.a.where,
        "b": found.b.where,
        "warnings": list(found.warnings),
        "causes": [cause_values(cause) for cause in flat(ranked(found, sort=Sort.COST), _some(count))],
        "stages": [_compared(one) for one in found.stages],
        "evidence": "ranges.arrow and kernels.arrow of A and B, steps paired",
    }


def _compared(stage: Any) -> Answer:
    total = stage.total
    return {
        "stage": stage.stage, "verdict": str(total.verdict), "reason": total.reason, "steps": total.steps,
        "unit": total.unit, "a_wall_ns": total.wall.a, "b_wall_ns": total.wall.b, "a_busy_ns": total.busy.a,
        "b_busy_ns": total.busy.b,
    }  # fmt: skip


def gated(out: str, rules: Sequence[str], baseline: str = "") -> Answer:
    """Hold a join against rules such as ``decode.busy_ns<=+3%``; pass, fail, or inconclusive by the noise."""
    parsed = [parse_rule(rule) for rule in rules]
    found = gate(read_out(Path(out)), read_out(Path(baseline)) if baseline else None, parsed)
    evidence = f"ranges.arrow of {out}" + (f" and of {baseline}" if baseline else "")
    return {"outcome": str(found.outcome), "rules": gate_table(found).to_pylist(), "evidence": evidence}


ANSWERS: Mapping[str, Callable[..., Answer]] = {
    "verdict": verdict, "budget": budget, "rows": rows, "kernels": kernels, "stalls": stalls, "diff": diff,
    "gate": gated,
}  # fmt: skip
"""Every answer by the name of its tool; the docstrings say what an assistant is told of it."""
