"""The table of `reports/dram_check.py`: bytes that ncu counted beside the analytic model's. Needs no GPU.

    python3 reports/dram_table.py -o DIR

Reads ``cases.json`` and ``ncu.csv`` in DIR; writes ``dram.csv`` with every number and ``dram.md`` for people.
"""

import argparse
import csv
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import define, frozen

from dsocr_nvtx.schema.records import COST_FIELDS, LayerKind

MARKER = "spin_kernel"


@define
class Case:
    """One measured range: where it was, and every field of its payload."""

    path: str
    stage: str
    step: int
    view: int
    values: dict[str, int]
    observed_weight_bytes: int | None = None


@frozen
class Kernel:
    """One profiled kernel."""

    name: str
    read: int
    written: int
    ns: int

    @property
    def moved(self) -> int:
        """DRAM bytes both ways."""
        return self.read + self.written


_METRICS = ("dram__bytes_read.sum", "dram__bytes_write.sum", "gpu__time_duration.sum")


def read_kernels(lines: Iterable[str]) -> list[Kernel]:
    """Return the kernels of an ncu log in launch order: either of its CSV pages, in base units, whatever is around."""
    text = list(lines)
    first = next((n for n, line in enumerate(text) if line.startswith('"ID"')), None)
    if first is None:
        raise SystemExit("no kernel in the ncu log: was --csv given, and did the measurement run under ncu?")
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for row in csv.DictReader(text[first:]):
        if not (row["ID"] or "").isdecimal():
            continue  # the line of units
        kernel = found[int(row["ID"])]
        kernel["name"] = row["Kernel Name"]
        metrics = {row["Metric Name"]: row["Metric Value"]} if "Metric Name" in row else row
        kernel |= {name: round(float(metrics[name].replace(",", ""))) for name in _METRICS if name in metrics}
    return [Kernel(kernel["name"], *(kernel.get(name, 0) for name in _METRICS)) for _, kernel in sorted(found.items())]


def split(kernels: Sequence[Kernel], count: int) -> list[list[Kernel]]:
    """Return the kernels of each case: those after its marker."""
    parts: list[list[Kernel]] = []
    for kernel in kernels:
        if MARKER in kernel.name:
            parts.append([])
        elif parts:
            parts[-1].append(kernel)
    if len(parts) != count:
        raise SystemExit(
            f"{count} ranges were run and {len(parts)} are in the ncu log: it is of another run, or cut off"
        )
    return parts


@frozen
class Line:
    """One row of the table: a range in a stage, the median of its calls, beside the model's three numbers."""

    stage: str
    path: str
    kind: str
    tokens: int
    calls: int
    kernels: int
    measured: int
    read: int
    written: int
    lower: int
    cold: int
    op_bytes: int
    fixed: int
    top: tuple[tuple[str, int], ...]

    @property
    def is_dominated(self) -> bool:
        """Whether weights and KV are nine tenths of the lower bound."""
        return self.fixed >= 0.9 * self.lower

    @property
    def verdict(self) -> str:
        """What the row is held to, and whether it holds."""
        if self.is_dominated:
            return "holds" if abs(self.measured - self.lower) <= 0.1 * self.lower else "not within 10% of lower bound"
        if self.measured < self.cold:
            return "below cold bytes"
        return "holds" if self.measured <= 1.1 * self.op_bytes else "above 1.1 op_bytes"


def lines_of(cases: Sequence[Case], parts: Sequence[Sequence[Kernel]], l2_bytes: int) -> list[Line]:
    """Return one line per stage, range and shape; several calls (decode steps) give their median."""
    grouped: dict[tuple[str, str, int], list[tuple[Case, Sequence[Kernel]]]] = defaultdict(list)
    for case, part in zip(cases, parts, strict=True):
        grouped[case.stage, case.path, case.view].append((case, part))
    return [_line(found, l2_bytes) for found in grouped.values()]


def _line(found: Sequence[tuple[Case, Sequence[Kernel]]], l2_bytes: int) -> Line:
    middle = statistics.median_low([sum(kernel.moved for kernel in part) for _, part in found])
    case, part = next(pair for pair in found if sum(kernel.moved for kernel in pair[1]) == middle)
    cost = {name: case.values[name] for name in COST_FIELDS}
    if case.observed_weight_bytes is not None:
        cost["weight_bytes"] = case.observed_weight_bytes
    fixed = cost["weight_bytes"] + cost["kv_read_bytes"] + cost["kv_write_bytes"]
    by_name: Counter[str] = Counter()
    for kernel in part:
        by_name[kernel.name] += kernel.moved
    return Line(
        stage=case.stage,
        path=case.path,
        kind=list(LayerKind)[case.values["kind"]],
        tokens=case.values["rows"],
        calls=len(found),
        kernels=len(part),
        measured=middle,
        read=sum(kernel.read for kernel in part),
        written=sum(kernel.written for kernel in part),
        lower=fixed + cost["activation_bytes"],
        cold=fixed + max(cost["activation_bytes"] - l2_bytes, 0),
        op_bytes=cost["op_bytes"],
        fixed=fixed,
        top=tuple(by_name.most_common(3)),
    )


def write_table(lines: Sequence[Line], about: str, out: Path) -> None:
    """Write ``dram.csv`` with every number and ``dram.md`` for people."""
    names = ("stage", "path", "kind", "tokens", "calls", "kernels", "measured", "read", "written", "lower", "cold")
    with (out / "dram.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "op_bytes", "measured_per_lower", "measured_per_op", "verdict"])
        for line in lines:
            ratios = (_ratio(line.measured, line.lower), _ratio(line.measured, line.op_bytes))
            writer.writerow([*(getattr(line, name) for name in names), line.op_bytes, *ratios, line.verdict])
    (out / "dram.md").write_text("\n".join(markdown(lines, about)) + "\n", encoding="utf-8")


def markdown(lines: Sequence[Line], about: str) -> list[str]:
    """Return the table, and under it the kernels that moved most in each row that does not hold."""
    text = ["# DRAM bytes measured and modelled", "", about, ""]
    text += [
        "| stage | range | rows | measured MB | lower | cold | op | /lower | /op | |",
        "|---|---|" + "---:|" * 7 + "---|",
    ]
    for line in lines:
        sizes = " | ".join(f"{size / 1e6:,.2f}" for size in (line.measured, line.lower, line.cold, line.op_bytes))
        ratios = f"{_ratio(line.measured, line.lower)} | {_ratio(line.measured, line.op_bytes)}"
        text.append(f"| {line.stage} | {line.path} | {line.tokens} | {sizes} | {ratios} | {line.verdict} |")
    text += [
        "",
        "Rows of weights and KV (nine tenths of the bound) should be within 10% of the lower bound; the others",
    ]
    text += ["between their cold bytes (activations less the L2) and 1.1 times the operators' bytes.", ""]
    for line in lines:
        if line.verdict != "holds":
            kernels = "; ".join(f"`{name[:90]}` {moved / 1e6:,.2f} MB" for name, moved in line.top)
            text.append(f"- {line.stage} {line.path}, {line.verdict}: {line.kernels} kernels, most in {kernels}")
    return text


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "-"


def table(out: Path) -> None:
    """Write the table of a measurement that lies in ``out``."""
    found = json.loads((out / "cases.json").read_text(encoding="utf-8"))
    cases = [Case(**case) for case in found["cases"]]
    with (out / "ncu.csv").open(encoding="utf-8", errors="replace") as log:
        parts = split(read_kernels(log), len(cases))
    about = (
        f"{found['device']}, one page of {found['prompt_tokens']} prompt tokens, experts {found['experts']}; "
        f"L2 {found['l2_bytes'] / 1e6:.0f} MB; caches as the calls before left them"
    )
    lines = lines_of(cases, parts, found["l2_bytes"])
    write_table(lines, about, out)
    print(f"{sum(line.verdict == 'holds' for line in lines)} of {len(lines)} rows hold: {out / 'dram.md'}")


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    table(parser.parse_args().out)


if __name__ == "__main__":
    main()
