"""Tables in a terminal: columns that know their text, the ones a narrow terminal does without, and those that fold."""

import os
from collections.abc import Callable, Iterable, Sequence

from attrs import frozen
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsocr_nvtx.errors import printable
from dsocr_nvtx.report import words
from dsocr_nvtx.schema.terminal import Terminal


@frozen(kw_only=True)
class Column:
    """A column: its title, the text and the style of a row, and what becomes of it where the terminal is narrow.

    ``wide`` ones go first, all together; then those that are ``spare``, the last first. One that ``folds`` runs over
    several lines. Any other is never cut while a line has place for those that are left.
    """

    title: str
    text: Callable[[words.Record], str]
    style: Callable[[words.Record], str] = lambda _: ""
    wide: bool = False
    spare: bool = False
    folds: bool = False
    left: bool = False


def nanoseconds(title: str, name: str, *, wide: bool = False, spare: bool = False) -> Column:
    """Return a column of times, in milliseconds."""
    return Column(title=title, text=lambda row: words.milliseconds(row[name]), wide=wide, spare=spare)


def percentage(title: str, name: str, *, wide: bool = False, spare: bool = False) -> Column:
    """Return a column of shares."""
    return Column(title=title, text=lambda row: words.percent(row[name]), wide=wide, spare=spare)


def decimal(title: str, name: str, digits: int) -> Column:
    """Return a column of numbers with few digits, for wide terminals."""
    return Column(title=title, text=lambda row: words.decimal(row[name], digits), wide=True)


def count(title: str, name: str, *, wide: bool = False, spare: bool = False) -> Column:
    """Return a column of whole numbers."""
    return Column(title=title, text=lambda row: words.decimal(row[name], 0), wide=wide, spare=spare)


def table(console: Console, title: str, columns: Sequence[Column], rows: Sequence[words.Record]) -> Table:
    """Return a table of the columns that the console is wide enough for."""
    texts = [[printable(column.text(row)).replace("\n", " ") for row in rows] for column in columns]
    shown = _fitting(console.width, columns, texts)
    widths = _widths(console.width, [columns[at] for at in shown], [texts[at] for at in shown])
    made = Table(title=f"\n{title}", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for at, width in zip(shown, widths, strict=True):
        column = columns[at]
        made.add_column(
            column.title, justify="left" if column.left else "right", no_wrap=not column.folds, width=width,
            overflow="fold" if column.folds else "ellipsis",
        )  # fmt: skip
    for place, row in enumerate(rows):
        made.add_row(*(Text(texts[at][place], style=columns[at].style(row)) for at in shown))
    return made


_GAP = 2
"""Characters between columns."""
_WORD = 16
"""Characters of a word that is not broken where a column folds."""


def fits(width: int, columns: Sequence[Column], rows: Sequence[words.Record]) -> bool:
    """Say whether every column has place without being folded."""
    texts = [[printable(column.text(row)) for row in rows] for column in columns]
    return _line(_natural(column, cells) for column, cells in zip(columns, texts, strict=True)) <= width


def _natural(column: Column, texts: Sequence[str]) -> int:
    return max(map(cell_len, (column.title, *texts)))


def _least(column: Column, texts: Sequence[str]) -> int:
    """Return the width that a column has to have: of one that folds, that of its longest word."""
    if not column.folds:
        return _natural(column, texts)
    return max(min(cell_len(word), _WORD) for text in (column.title, *texts) for word in (text.split() or [""]))


def _line(widths: Iterable[int]) -> int:
    each = list(widths)
    return sum(each) + _GAP * (len(each) - 1)


def _fitting(width: int, columns: Sequence[Column], texts: Sequence[Sequence[str]]) -> list[int]:
    """Return which columns are shown: the wide ones where nothing folds for them, of the spare ones what has place."""
    shown = list(range(len(columns)))
    if _line(map(_natural, columns, texts)) > width:
        shown = [at for at in shown if not columns[at].wide]
    for spare in [at for at in reversed(shown) if columns[at].spare]:
        if _line(_least(columns[at], texts[at]) for at in shown) > width:
            shown.remove(spare)
    return shown


def _widths(width: int, columns: Sequence[Column], texts: Sequence[Sequence[str]]) -> list[int]:
    """Return each column's width: what it has to have, and of what is left over what it can use, the first first."""
    widths = [_least(column, cells) for column, cells in zip(columns, texts, strict=True)]
    left = max(width - _line(widths), 0)
    for at, (column, cells) in enumerate(zip(columns, texts, strict=True)):
        more = min(_natural(column, cells) - widths[at], left)
        widths[at] += more
        left -= more
    return widths


def wide_console() -> Console:
    """Return the terminal; what is no terminal, a file or a pipe, gets lines as long as they need to be."""
    console = Terminal()
    return console if console.is_terminal or "COLUMNS" in os.environ else Terminal(width=160)
