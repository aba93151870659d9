"""`ladder`: reads a join's tables, prints the rungs, writes them if asked."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from dsocr_nvtx.cli.outputs import tell, written
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.roofline.ladder import ladder
from dsocr_nvtx.roofline.measured import read_launching
from dsocr_nvtx.roofline.tax import TAX_RULE
from dsocr_nvtx.schema.files import check_file, check_format, write_table
from dsocr_nvtx.schema.joins import open_directory
from dsocr_nvtx.schema.terminal import Terminal


def climb(directory: Path, *, out: Path | None, ceilings: Path | None, force: bool = False) -> None:
    """Print the ladder of a join's output directory, and write it to ``out`` if asked."""
    if out is not None:
        check_format(out)
        check_file(out, force=force)
    if ceilings is not None and ceilings.suffix != ".arrow":
        raise Refused(ceilings, "no table that `ceilings` wrote", "measure one with dsocr-nvtx ceilings -o FILE.arrow")
    joined = open_directory(directory)
    kernels, stages = (joined.table(name) for name in ("kernels", "stages"))
    table = ladder(kernels, stages, read_launching(ceilings) if ceilings is not None else None)
    if out is not None:
        write_table(table, out, force=force)
    with written(f"the ladder is written: {out}" if out is not None else "nothing was to be written"):
        show_ladder(Terminal(), table)
        if out is not None:
            tell(f"ladder: {out}")


def show_ladder(console: Console, table: pa.Table) -> None:
    """Print one line per stage and rung: time per step, its range, what it would bring; then the assumptions.

    Of several processes, each step counts: times are means over all of them.
    """
    text = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("stage", "rung", "ms/step", "low", "high", "speedup", "operations/step"):
        text.add_column(name, justify="left" if name in ("stage", "rung") else "right", no_wrap=True)
    rows = _over_processes(table.to_pylist())
    for row in rows:
        steps = max(row["steps"], 1)
        times = (f"{row[name] / steps / 1e6:,.3f}" for name in ("total_ns", "low_ns", "high_ns"))
        speedup = f"{row['now_ns'] / row['total_ns']:,.1f}x" if row["total_ns"] else "-"
        text.add_row(row["stage"], row["rung"], *times, speedup, f"{row['operations'] / steps:,.0f}")
    console.print(text)
    for rung, assumed in {row["rung"]: row["assumes"] for row in rows}.items():
        console.print(f"{rung}: {assumed}", style="dim", highlight=False, soft_wrap=True)
    console.print(TAX_RULE, style="dim", highlight=False, soft_wrap=True)


_SUMMED = ("steps", "operations", "low_ns", "total_ns", "high_ns")


def _over_processes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of one stage and rung added up, in their order, each with what was measured of the stage."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        one = found.setdefault((row["stage"], row["rung"]), {**row, **dict.fromkeys(_SUMMED, 0)})
        one |= {name: one[name] + row[name] for name in _SUMMED}
    return [{**row, "now_ns": found[row["stage"], "now"]["total_ns"]} for row in found.values()]
