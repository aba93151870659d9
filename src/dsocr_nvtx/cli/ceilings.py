"""`ceilings`: measures, writes the table, prints the roofs."""

from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from dsocr_nvtx.cli.outputs import tell
from dsocr_nvtx.errors import Unavailable
from dsocr_nvtx.schema.files import check_file, check_format, write_table
from dsocr_nvtx.schema.terminal import Terminal

_SCALE = {"FLOP/s": (1e12, "TFLOP/s"), "B/s": (1e9, "GB/s"), "ns": (1e3, "us"), "1/s": (1e3, "1000/s")}


def ceilings(out: Path, *, device: str, quick: bool, force: bool = False) -> None:
    """Measure the present GPU's roofs, print one line per roof, and write them to ``out``."""
    check_format(out)
    check_file(out, force=force)
    try:
        from dsocr_nvtx.measure.ceilings import measure_ceilings
    except ImportError as error:
        raise Unavailable(f"ceilings need torch and a GPU ({error}); pip install 'dsocr-nvtx[run]'") from error
    errors = Terminal(stderr=True)
    with errors.status("starting") as status:
        table = measure_ceilings(device, quick=quick, progress=status.update, say=lambda text: errors.print(
            text, highlight=False, markup=False, soft_wrap=True
        ))  # fmt: skip
    # Shown first: where writing is refused after all, the minutes were not for nothing.
    show_ceilings(Terminal(), table)
    write_table(table, out, force=force)
    tell(f"ceilings: {out}; next: dsocr-nvtx join REPORT --ceilings {out}")


def show_ceilings(console: Console, table: pa.Table) -> None:
    """Print every roof, and the sustained rate of the same quantity beside it."""
    rows = table.to_pylist()
    sustained = {(r["quantity"], r["dtype"]): r for r in rows if r["regime"] == "sustained"}
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    text = Table(
        title=f"{about.get('device', '')}, {about.get('date', '')}", box=None, header_style="bold", pad_edge=False
    )
    for name in ("quantity", "of", "roof", "+-", "sustained", "unit", "MHz", "W", "held down by"):
        text.add_column(name, justify="left" if name in ("quantity", "of", "unit", "held down by") else "right")
    for row in rows:
        if row["is_roof"]:
            text.add_row(*_cells(row, sustained.get((row["quantity"], row["dtype"]))))
    console.print(text)


def _cells(row: dict[str, object], later: dict[str, object] | None) -> list[str]:
    scale, unit = _SCALE[str(row["unit"])]
    held = later or row
    return [
        str(row["quantity"]),
        " ".join(str(row[name]) for name in ("dtype", "shape") if row[name]),
        f"{_number(row['median']) / scale:,.2f}",
        f"{_number(row['spread']) / scale:,.2f}",
        f"{_number(later['median']) / scale:,.2f}" if later else "-",
        unit,
        *(f"{_number(held[name]):,.0f}" if held[name] is not None else "-" for name in ("sm_clock_mhz", "power_w")),
        str(held["throttle"] or "-"),
    ]


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"not a number: {value!r}")
    return float(value)
