"""`overhead`: what hooks cost on this machine, measured and printed."""

from pathlib import Path
from typing import TYPE_CHECKING

from attrs import asdict
from rich.table import Table

from dsocr_nvtx.schema.files import check_file, write_json
from dsocr_nvtx.schema.terminal import Terminal

if TYPE_CHECKING:
    from dsocr_nvtx.run.overhead import Overhead
    from dsocr_nvtx.run.workload import RunOptions


def overhead(options: "RunOptions", *, rounds: int, out: Path | None, force: bool = False) -> None:
    """Measure, print a table, and write JSON where asked."""
    if out is not None:
        check_file(out, force=force)
    from dsocr_nvtx.run.capture import attention_choice
    from dsocr_nvtx.run.overhead import measure_overhead
    from dsocr_nvtx.run.progress import run_progress
    from dsocr_nvtx.run.workload import prepare

    with run_progress() as progress, attention_choice(cudnn=options.cudnn_sdpa):
        work = prepare(options, progress)
        progress.stage("rounds", rounds)
        found = measure_overhead(work, level=options.level, rounds=rounds, progress=progress.step)
    # Shown first: where writing is refused after all, the minutes were not for nothing.
    Terminal().print(overhead_table(found))
    if out is not None:
        rows = [asdict(row) | {"per_call_ns": row.per_call_ns, "share": row.share} for row in found]
        write_json(rows, out, force=force)


def overhead_table(found: "list[Overhead]") -> Table:
    """Return the table for people."""
    first = found[0]
    title = f"decode {first.decode}, level {first.level}, {first.rounds} rounds, bare step {first.bare_ns / 1e6:.3f} ms"
    table = Table(title=title, title_justify="left")
    for name in ("variant", "ranges", "us per step", "95% interval", "us per range", "of the step"):
        table.add_column(name, justify="left" if name == "variant" else "right")
    for row in found:
        interval = f"{row.low_ns / 1e3:.1f} .. {row.high_ns / 1e3:.1f}"
        share = f"{row.share:.2%}"
        per_call = f"{row.per_call_ns / 1e3:.2f}" if row.calls else ""
        table.add_row(row.variant, str(row.calls), f"{row.cost_ns / 1e3:.1f}", interval, per_call, share)
    return table
