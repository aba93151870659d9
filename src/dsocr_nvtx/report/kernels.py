"""The kernels of a report as people read them: a table in the terminal, lines for the page, and what goes into JSON."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from dsocr_nvtx.report import words
from dsocr_nvtx.report.columns import Column, count, percentage, table

SPLIT = 12
"""Names of kinds or modules that are listed; of more, how many."""


def microseconds(ns: object) -> str:
    """Return nanoseconds as microseconds with two digits, a dash where unknown."""
    return "-" if ns is None else f"{words.number(ns) / 1e3:,.2f}"


def layers_text(layers: Sequence[int]) -> str:
    """Return layers as ranges, like ``0-3, 5``."""
    parts: list[list[int]] = []
    for layer in sorted(layers):
        if parts and layer == parts[-1][1] + 1:
            parts[-1][1] = layer
        else:
            parts.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def where(row: words.Record) -> str:
    """Return where a row of KERNELS_SUMMARY was launched: modules, kinds of calls, layers."""
    modules, kinds, layers = ([str(one) for one in _list(row[name])] for name in ("modules", "kinds", "layers"))
    named = [", ".join(one) if len(one) <= SPLIT else f"{len(one)} of them" for one in (modules, kinds) if one]
    if layers:
        named.append(f"{'layer' if len(layers) == 1 else 'layers'} {layers_text([int(one) for one in layers])}")
    return "; ".join(named) or "outside every range"


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


def _micro(title: str, name: str, *, spare: bool = False) -> Column:
    return Column(title=title, text=lambda row: microseconds(row[name]), spare=spare)


COLUMNS = (
    Column(title="stage", text=lambda row: str(row["stage"] or "-"), left=True),
    Column(title="kernel", text=lambda row: str(row["short_name"]), left=True, folds=True),
    Column(title="class", text=lambda row: str(row["class"]).replace("_", " "), left=True, spare=True),
    count("launches", "launches"),
    Column(title="total", text=lambda row: words.milliseconds(row["total_ns"])),
    percentage("of stage's busy", "stage_share"),
    _micro("mean µs", "mean_ns", spare=True),
    _micro("spread µs", "spread_ns", spare=True),
    Column(title="waves", text=lambda row: words.decimal(row["waves"], 2), spare=True),
    Column(
        title="in", text=lambda row: ", ".join(map(str, _list(row["modules"]))) or "no range", left=True, spare=True
    ),
)


def kernels_table(console: Console, rows: Sequence[words.Record], most: int) -> Table:
    """Return the ``most`` kernels with the longest total as a table."""
    shown = rows[:most]
    title = f"The {len(shown)} of {len(rows)} kernels that take longest (total in ms; waves: blocks of a grid / SMs)"
    return table(console, title, COLUMNS, shown)
