"""A comparison as a COMPARISON table, and as plain values for JSON."""

import attrs
import pyarrow as pa

from dsocr_nvtx.compare.comparison import Comparison, StageComparison
from dsocr_nvtx.compare.lines import Line, Moved
from dsocr_nvtx.compare.steps import PARTS
from dsocr_nvtx.schema.comparison import COMPARISON
from dsocr_nvtx.schema.tables import conform

_KEPT = ("report", "sha256", "device", "tool", "dsocr_nvtx", "roofs")


def comparison_table(found: Comparison) -> pa.Table:
    """Return COMPARISON: the rows of every stage, with both runs' provenance and the limits in the metadata."""
    rows = [line_record(row) for row in found.rows]
    columns = {name: [row[name] for row in rows] for name in COMPARISON.names}
    return conform(columns, COMPARISON, {**provenance(found), "warnings": "\n".join(found.warnings)})


def provenance(found: Comparison) -> dict[str, str]:
    """Return where both runs come from, their level, and the limits of the verdicts."""
    about = {"a": found.a.where, "b": found.b.where, "level": found.a.level}
    for name, out in (("a", found.a), ("b", found.b)):
        about |= {f"{name}_{key}": out.about[key] for key in _KEPT if key in out.about}
    return about | {f"limit_{name}": str(value) for name, value in attrs.asdict(found.limits).items()}


def line_record(line: Line) -> dict[str, object]:
    """Return a line as a row of COMPARISON."""
    record: dict[str, object] = {
        name: getattr(line, name)
        for name in (
            "stage", "module", "kind", "layer", "phase", "moved", "reason", "present", "unit", "steps", "a_calls",
            "b_calls", "a_launches", "b_launches", "peers",
        )
    }  # fmt: skip
    record |= {"verdict": str(line.verdict), "peers_change": line.drift, "contribution_ns": line.contribution}
    record |= {f"{part}_contribution_ns": ns for part, ns in zip(PARTS, line.parts, strict=True)}
    for name in ("busy", "idle", "wall"):
        record |= _time(name, getattr(line, name))
    return record


def _time(name: str, moved: Moved) -> dict[str, object]:
    low, high = moved.interval or (None, None)
    return {
        f"a_{name}_ns": moved.a, f"b_{name}_ns": moved.b, f"{name}_change": moved.relative, f"{name}_low": low,
        f"{name}_high": high, f"{name}_verdict": str(moved.verdict),
    }  # fmt: skip


def as_values(found: Comparison) -> dict[str, object]:
    """Return everything in a comparison as plain values, for JSON."""
    return {
        **provenance(found),
        "warnings": found.warnings,
        "verdicts": found.counts(),
        "stages": [_stage_values(stage) for stage in found.stages],
    }


def _stage_values(stage: StageComparison) -> dict[str, object]:
    return {
        "stage": stage.stage,
        "total": line_record(stage.total),
        "notes": stage.notes,
        "layers": [line_record(layer) for layer in stage.layers],
        "rows": [line_record(row) for row in stage.rows],
    }
