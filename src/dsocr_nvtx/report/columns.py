"""Tables in a terminal: columns that know their text, and the ones a narrow terminal does without."""

import os
from collections.abc import Callable, Sequence

from attrs import frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsocr_nvtx.report import words

_WIDE = 116
"""Characters that all columns need; a narrower terminal gets those that carry the verdict."""


@frozen(kw_only=True)
class Column:
    """A column: its title, the text and the style of a row, and whether a narrow terminal can do without it."""

    title: str
    text: Callable[[words.Record], str]
    style: Callable[[words.Record], str] = lambda _: ""
    wide: bool = False
    left: bool = False


def nanoseconds(title: str, name: str, *, wide: bool = False) -> Column:
    """Return a column of times, in milliseconds."""
    return Column(title=title, text=lambda row: words.milliseconds(row[name]), wide=wide)


def percentage(title: str, name: str, *, wide: bool = False) -> Column:
    """Return a column of shares."""
    return Column(title=title, text=lambda row: words.percent(row[name]), wide=wide)


def decimal(title: str, name: str, digits: int) -> Column:
    """Return a column of numbers with few digits, for wide terminals."""
    return Column(title=title, text=lambda row: words.decimal(row[name], digits), wide=True)


def count(title: str, name: str, *, wide: bool = False) -> Column:
    """Return a column of whole numbers."""
    return Column(title=title, text=lambda row: words.decimal(row[name], 0), wide=wide)


def table(console: Console, title: str, columns: Sequence[Column], rows: Sequence[words.Record]) -> Table:
    """Return a table of the columns that the console is wide enough for."""
    shown = [column for column in columns if not column.wide or console.width >= _WIDE]
    made = Table(title=f"\n{title}", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in shown:
        made.add_column(column.title, justify="left" if column.left else "right", no_wrap=True)
    for row in rows:
        made.add_row(
            *(Text(words.printable(column.text(row)).replace("\n", " "), style=column.style(row)) for column in shown)
        )
    return made


def wide_console() -> Console:
    """Return the terminal; what is no terminal, a file or a pipe, gets lines as long as they need to be."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=160)
