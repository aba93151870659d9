"""Decoding with a growing cache, a static one, compiled, and as one CUDA graph, side by side: one page and sixteen.

    python3 reports/review.py capture DIR {eager,static,compiled,graph}-{1,16} # needs an NVIDIA GPU and nsys
    python3 reports/decode_modes.py DIR -o reports/h200/decode_modes.md        # needs neither

Every figure is the median over the decode steps: the first of a compiled run also captures its CUDA graph.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from review import COUNTS, DECODES, join

from dsocr_nvtx.join.naming import short_name
from dsocr_nvtx.report.opened import Opened, open_joined
from dsocr_nvtx.roofline.tax import taxed

IDLE = ("idle_host_ns", "idle_launch_ns", "idle_sync_ns", "idle_memory_ns", "idle_queued_ns")
KERNELS_SHOWN = 12

Table = list[Sequence[str]]


class Mode(NamedTuple):
    """The decode steps of one workload: calls, operations with ``fusible`` and ``of_kind``, and the run's record."""

    calls: pa.Table
    operations: pa.Table
    steps: int
    run: dict[str, Any]


def main() -> None:
    """Join what was captured, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    asked = parser.parse_args()
    parts = [
        "# Decode, four ways\n\nMade by `reports/decode_modes.py` of captures by `reports/review.py`; the texts of both"
        " say how. Medians over the decode steps.\n"
    ]
    for pages in COUNTS:
        captured = [decode for decode in DECODES if (asked.folder / f"{decode}-{pages}.sqlite").exists()]
        modes = {decode: mode_of(asked.folder, f"{decode}-{pages}") for decode in captured}
        if modes:
            parts.append(section(pages, modes))
    asked.out.write_text("\n".join(parts), encoding="utf-8")


def mode_of(folder: Path, name: str) -> Mode:
    """Join one workload, and keep what belongs to its decode steps."""
    opened = open_joined(join(folder, name))
    manifest = folder / f"{name}.run" / "run.json"
    run = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    calls = opened.ranges.filter(pc.equal(opened.ranges["stage"], "decode"))
    return Mode(calls, _operations(opened, calls), len(pc.unique(calls["step"])), run)


def _operations(opened: Opened, calls: pa.Table) -> pa.Table:
    kernels = opened.kernels
    kernels = kernels.append_column("fusible", pa.array(taxed(kernels)))
    kernels = kernels.filter(pc.equal(kernels["stage"], "decode"))
    kinds = calls.select(["pid", "event_id", "kind"]).rename_columns(["pid", "event_id", "of_kind"])
    return kernels.join(kinds.cast(_plain(kinds)), ["pid", "event_id"])


def _plain(table: pa.Table) -> pa.Schema:
    """Return a table's schema with text in place of dictionaries, which tables are not joined by."""
    return pa.schema(pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in table.schema)


def section(pages: int, modes: Mapping[str, Mode]) -> str:
    """Return the tables of one number of pages."""
    title = "One page" if pages == 1 else f"{pages} pages at once"
    named = [(f"{title}: a decode step, ms", steps(modes)), ("By kind: kernel time, of it fusible, ms", kinds(modes))]
    if {"static", "compiled"} <= set(modes):
        static, compiled = modes["static"], modes["compiled"]
        named += [
            ("Kernels of a static step that a compiled one has not", only(static, compiled)),
            ("Kernels of a compiled step that a static one has not", only(compiled, static)),
        ]
    return "\n".join(f"## {heading}\n\n{markdown(table)}" for heading, table in named)


def steps(modes: Mapping[str, Mode]) -> Table:
    """Return the step of every mode: without a tool, under nsys, its kernels, and its idle time by cause."""
    head = ["mode", "no tool", "under nsys", "kernels", "fusible", *(name[5:-3] for name in IDLE)]
    rows: Table = [head]
    for name, mode in modes.items():
        bare = (mode.run.get("dilation") or {}).get("decode", {}).get("unprofiled_ns")
        each = [median_step(mode.calls, column) for column in ("wall_ns", "kernel_ns")]
        fusible = median_step(mode.operations.filter(mode.operations["fusible"]), "busy_owned_ns")
        idle = [median_step(mode.calls, column) for column in IDLE]
        rows.append([name, ms(bare), *(ms(value) for value in (*each, fusible, *idle))])
    return rows


def median_step(table: pa.Table, column: str) -> float:
    """Return the median over steps of a column's sum."""
    summed = table.group_by("step").aggregate([(column, "sum")])
    return float(statistics.median(summed[f"{column}_sum"].to_pylist() or [0]))


def kinds(modes: Mapping[str, Mode]) -> Table:
    """Return the kernel time of a step by kind of call, and how much of it is fusible."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name, mode in modes.items():
        for kind in pc.unique(mode.operations["of_kind"]).to_pylist():
            mine = mode.operations.filter(pc.equal(mode.operations["of_kind"], kind))
            fusible = median_step(mine.filter(mine["fusible"]), "busy_owned_ns")
            found[str(kind)][name] = f"{ms(median_step(mine, 'busy_owned_ns'))} ({ms(fusible)})"
    return [
        ["kind", *modes],
        *([kind, *(cells.get(name, "") for name in modes)] for kind, cells in sorted(found.items())),
    ]


def only(one: Mode, other: Mode) -> Table:
    """Return the kernels that run in one mode and not in the other, the longest first."""
    theirs = set(map(short_name, pc.unique(other.operations["name"]).to_pylist()))
    counted = one.operations.group_by(["name", "of_kind", "step"]).aggregate(
        [("busy_owned_ns", "sum"), ([], "count_all")]
    )
    found: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for line in counted.to_pylist():
        name = short_name(line["name"])
        if name not in theirs:
            step = found[name, str(line["of_kind"])][line["step"]]
            step[0], step[1] = step[0] + line["count_all"], step[1] + line["busy_owned_ns_sum"]
    middle = {key: [_middle(steps.values(), at, one.steps) for at in (0, 1)] for key, steps in found.items()}
    longest = sorted((item for item in middle.items() if item[1][0]), key=lambda item: -item[1][1])[:KERNELS_SHOWN]
    rows = [[f"`{name}`", kind, f"{count:.0f}", f"{ns / 1e3:.1f}"] for (name, kind), (count, ns) in longest]
    return [["kernel", "in", "a step", "us a step"], *rows]


def _middle(steps: Iterable[Sequence[int]], at: int, count: int) -> float:
    """Return the median over all steps of a number that those which are left out do not have."""
    told = [step[at] for step in steps]
    return statistics.median([*told, *[0] * (count - len(told))])


def ms(ns: float | None) -> str:
    """Return nanoseconds as milliseconds; nothing where they are not known."""
    return "" if ns is None else f"{ns / 1e6:.3f}"


def markdown(table: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    head, *rows = table
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---", *["--:"] * (len(head) - 1)], *rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
