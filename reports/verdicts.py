"""Writes verdicts.md: every row of every committed capture under the rule of `bound` before and the one of today.

    python reports/verdicts.py

The rule before, in this order: host where idle exceeds busy; compute or memory where that roof's sum over the calls is
60 % of busy; else latency. Rows of layers that have the same verdicts stand in one line.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from dsocr_nvtx.join.columns import coded, numbers
from dsocr_nvtx.roofline.bounds import THRESHOLD
from dsocr_nvtx.roofline.budget import PARTS, budget
from dsocr_nvtx.roofline.evidence import rows_of
from dsocr_nvtx.roofline.joined import joined_report
from dsocr_nvtx.roofline.least import least_times
from dsocr_nvtx.roofline.own import own_costs
from dsocr_nvtx.roofline.points import Roofline

HERE = Path(__file__).parent
CAPTURES = {
    "the demo: an eager page of 2x3 tiles": HERE.parent / "src" / "dsocr_nvtx" / "demo" / "h200-gundam-2x3.sqlite.xz",
    "tests/data/h200-cupti-graph: decode steps replayed from a CUDA graph": HERE.parent
    / "tests"
    / "data"
    / "h200-cupti-graph",
}
ROOFS = {"datasheet": None, "reports/h200/ceilings.arrow": HERE / "h200" / "ceilings.arrow"}
SHOWN = {"roofline": "roof", "tax": "tax", "inefficiency": "ineff.", "idle_queued": "queued"}


def before(found: Roofline, ranges: pa.Table) -> list[str]:
    """Return the verdict of each row by the rule before."""
    least = least_times(own_costs(ranges), coded(ranges, "dtype"), found.roofs)
    row = rows_of(found.rows, ranges)
    busy, idle = numbers(found.rows, "busy_owned_ns"), numbers(found.rows, "idle_owned_ns")
    compute, memory = (np.bincount(row, times, len(busy)) for times in (least.compute, least.memory))
    by_roof = np.where(compute >= memory, "compute", "memory")
    answer = np.where(np.maximum(compute, memory) >= THRESHOLD * busy, by_roof, "latency")
    answer = np.where(idle > busy, "host", answer)
    return [str(word) for word in np.where(busy + idle > 0, answer, "-")]


def lines(found: Roofline, ranges: pa.Table) -> Iterator[str]:
    """Yield the table of one capture: rows of one place and one pair of verdicts together, longest first."""
    alike: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for row, old in zip(found.rows.to_pylist(), before(found, ranges), strict=True):
        key = (row["stage"], row["module"], row["kind"], old, str(row["bound"] or "-"))
        alike.setdefault(key, []).append(row)
    changes = Counter((key[3], key[4]) for key, rows in alike.items() for _ in rows)
    yield "changes: " + ", ".join(f"{old} -> {new}: {count}" for (old, new), count in changes.most_common())
    yield ""
    yield f"| stage | rows | before | now | wall ms | idle: host | {' | '.join(SHOWN.values())} |"
    yield "|---|---|---|---|--:|--:|" + "--:|" * len(SHOWN)
    for (stage, module, kind, old, new), rows in sorted(alike.items(), key=lambda item: -_wall(item[1])):
        parts, wall = budget(rows), _wall(rows)
        host = sum(parts[part] for part in PARTS if part.startswith("idle") and part != "idle_queued")
        shares = [f"{ns / wall:.0%}" if wall else "-" for ns in (host, *(parts[part] for part in SHOWN))]
        layers = _layers([row["layer"] for row in rows])
        cells = [stage, f"{module}{layers} {kind}", old, new, f"{wall / 1e6:,.3f}", *shares]
        yield f"| {' | '.join(cells)} |"


def _wall(rows: list[dict[str, object]]) -> int:
    return sum(int(str(row["wall_ns"])) for row in rows)


def _layers(found: list[object]) -> str:
    layers = sorted(int(str(layer)) for layer in found if layer is not None)
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return f".{','.join(texts)}" if texts else ""


def main() -> None:
    """Judge every capture on every kind of roofs."""
    text = ["# Verdicts: the rule of `bound` before and today", "", (__doc__ or "").split("\n\n")[2].strip(), ""]
    text += ["Shares are of the rows' wall time; made by `python reports/verdicts.py`.", ""]
    for name, capture in CAPTURES.items():
        for roofs, path in ROOFS.items():
            joined = joined_report(capture, hardware=None, ceilings=path)
            found = joined.judge()
            text += [f"## {name}; roofs: {roofs}", "", *lines(found, joined.joined.ranges), ""]
            stages = (f"{s['stage']}: {s['bound']}" for s in found.stages.to_pylist())
            text += [f"stages: {', '.join(stages)}", ""]
    (HERE / "verdicts.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
