"""`python -m dsocr_nvtx.cli.nsys_rows EXPORT`: the roofline rows of an export as SQL, for nsys's own report scripts.

The Python inside nsys has neither numpy nor pyarrow, and cannot start processes as usual; its script
`nsys_scripts/dsocr_roofline.py` starts this one and hands the SQL on. What is printed: a line ``sql STATEMENT`` for
each statement that fills a temporary table, then ``query QUERY``; where the export is refused, one line ``error TEXT``.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dsocr_nvtx.errors import DsocrError, printable_line

_SHOWN = (
    ("stage", "Stage", 1), ("module", "Module", 1), ("kind", "Kind", 1), ("layer", "Layer", 1), ("calls", "Calls", 1),
    ("launches", "Launches", 1), ("wall_ns", "Wall:dur_ns", 1), ("busy_owned_ns", "Busy:dur_ns", 1),
    ("idle_owned_ns", "Idle:dur_ns", 1), ("roofline_ns", "Roofline:dur_ns", 1), ("lost_ns", "Lost:dur_ns", 1),
    ("efficiency", "Efficiency:ratio_%", 100), ("bound", "Bound", 1), ("pid", "PID", 1), ("device", "GPU", 1),
)  # fmt: skip
"""Columns of ``roofline.arrow``, what nsys calls them (after the colon, the unit it formats), and their factor."""
_AT_A_TIME = 256
"""Rows of one statement: SQLite limits a statement's length."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the SQL of an export's roofline rows; return 0, or 1 after one line that says why there is none."""
    parser = argparse.ArgumentParser(prog="dsocr_nvtx.cli.nsys_rows")
    parser.add_argument("export", type=Path)
    parser.add_argument("--hardware")
    parser.add_argument("--ceilings", type=Path)
    options = parser.parse_args(arguments)
    try:
        lines = list(_lines(options.export, options.hardware, options.ceilings))
    except DsocrError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        return _refuse(f"{sys.executable} has no {error.name}; set DSOCR_PYTHON to a Python with numpy and pyarrow")
    print("\n".join(lines))
    return 0


def _refuse(text: str) -> int:
    print(f"error {printable_line(text)}")
    return 1


def _lines(export: Path, hardware: str | None, ceilings: Path | None) -> Iterator[str]:
    from dsocr_nvtx.roofline.joined import joined_report

    rows = joined_report(export, hardware=hardware, ceilings=ceilings).judge().rows.to_pylist()
    names = ", ".join(name for name, _, _ in _SHOWN)
    yield f"sql CREATE TEMP TABLE dsocr_roofline ({names})"
    for at in range(0, len(rows), _AT_A_TIME):
        yield f"sql INSERT INTO dsocr_roofline VALUES {', '.join(map(_values, rows[at : at + _AT_A_TIME]))}"  # noqa: S608 - literals of our own
    shown = (
        f'{name} AS "{title}"' if factor == 1 else f'round({name} * {factor}, 2) AS "{title}"'
        for name, title, factor in _SHOWN
    )
    yield f"query SELECT {', '.join(shown)} FROM dsocr_roofline ORDER BY rowid"  # noqa: S608 - names of our own


def _values(row: dict[str, object]) -> str:
    return f"({', '.join(literal(row[name]) for name, _, _ in _SHOWN)})"


def literal(value: object) -> str:
    """Return a value as a SQL literal on one line; text with a character that does not print, by its bytes."""
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        return repr(value)
    return "'" + value.replace("'", "''") + "'" if value.isprintable() else f"CAST(X'{value.encode().hex()}' AS TEXT)"


if __name__ == "__main__":
    sys.exit(main())
