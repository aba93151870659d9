"""A page that the package draws itself, for runs without an image at hand: text, a table, a formula, a figure."""

import random
from collections.abc import Callable
from functools import cache
from typing import Final

from attrs import define
from PIL import Image, ImageDraw, ImageFont

A4_AT_150_DPI: Final = (1240, 1754)
"""Gundam cuts a page of this size into 2 x 3 tiles."""

TEXT: Final = (
    "the of a and to in page layer token model kernel memory bandwidth latency which that measured every decoder"
    " attention expert vision patch window global cache value length roof ceiling launch range stage step between"
    " reads writes bytes weight matrix product column row figure table shows where time goes host device"
)
WORDS: Final = tuple(TEXT.split())
FORMULA: Final = "attention(Q, K, V)  =  softmax( Q K^T / sqrt(d) ) V  +  b"
INK: Final = (24, 24, 28)
GREY: Final = (140, 140, 148)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@define
class _Sheet:
    """A page in the making: where the pen stands, and how large the letters are."""

    draw: ImageDraw.ImageDraw
    width: int
    height: int
    dice: random.Random
    y: int = 0

    @property
    def em(self) -> int:
        return max(8, self.width // 62)

    @property
    def margin(self) -> int:
        return self.width // 12

    @property
    def right(self) -> int:
        return self.width - self.margin

    @property
    def bottom(self) -> int:
        return self.height - self.margin


def draw_page(width: int = A4_AT_150_DPI[0], height: int = A4_AT_150_DPI[1], seed: int = 0) -> Image.Image:
    """Return an RGB image that looks like a printed page; equal arguments give equal pixels with one Pillow version."""
    image = Image.new("RGB", (width, height), "white")
    # Seeded so that a run can be repeated; nothing here is secret.
    sheet = _Sheet(ImageDraw.Draw(image), width, height, random.Random(seed))  # noqa: S311
    sheet.y = sheet.margin
    blocks: tuple[Callable[[_Sheet], None], ...] = (
        _title,
        _paragraph,
        _table,
        _paragraph,
        _formula,
        _paragraph,
        _figure,
    )
    for block in blocks:
        block(sheet)
    while sheet.y < sheet.bottom - 8 * sheet.em:
        _heading(sheet)
        _paragraph(sheet)
    return image


@cache
def _font(size: int) -> Font:
    """Return Pillow's built-in font; where Pillow lacks FreeType, its bitmap font, in its one size."""
    try:
        return ImageFont.load_default(size)
    except ImportError:
        return ImageFont.load_default()


def _words(sheet: _Sheet, count: int) -> str:
    return " ".join(sheet.dice.choice(WORDS) for _ in range(count))


def _line(sheet: _Sheet, text: str, size: int, x: int) -> None:
    if sheet.y + size <= sheet.bottom:
        sheet.draw.text((x, sheet.y), text, fill=INK, font=_font(size))
    sheet.y += size + size // 2


def _title(sheet: _Sheet) -> None:
    _line(sheet, _words(sheet, 4).title(), 2 * sheet.em, sheet.margin)
    _line(sheet, _words(sheet, 6), sheet.em, sheet.margin)


def _heading(sheet: _Sheet) -> None:
    sheet.y += sheet.em
    _line(sheet, f"{sheet.dice.randint(1, 9)}  {_words(sheet, 3).capitalize()}", sheet.em * 3 // 2, sheet.margin)


def _paragraph(sheet: _Sheet) -> None:
    for _ in range(sheet.dice.randint(4, 7)):
        text = _words(sheet, 24)
        while sheet.draw.textlength(text, font=_font(sheet.em)) > sheet.right - sheet.margin:
            text = text[: text.rindex(" ")]
        _line(sheet, text, sheet.em, sheet.margin)
    sheet.y += sheet.em


def _formula(sheet: _Sheet) -> None:
    _line(sheet, FORMULA, sheet.em * 5 // 4, sheet.margin * 2)
    sheet.y += sheet.em


def _table(sheet: _Sheet, rows: int = 5, columns: int = 4) -> None:
    row, column = 2 * sheet.em, (sheet.right - sheet.margin) // columns
    top = sheet.y
    for index in range(rows + 1):
        sheet.draw.line([(sheet.margin, top + index * row), (sheet.right, top + index * row)], fill=INK)
        for place in range(columns if index < rows else 0):
            text = _words(sheet, 1) if index == 0 or place == 0 else f"{sheet.dice.uniform(0, 999):.2f}"
            corner = (sheet.margin + place * column + sheet.em // 2, top + index * row + sheet.em // 2)
            sheet.draw.text(corner, text, fill=INK, font=_font(sheet.em))
    sheet.y = top + rows * row + 2 * sheet.em


def _figure(sheet: _Sheet, bars: int = 8) -> None:
    height = min(sheet.height // 6, max(0, sheet.bottom - sheet.y - 2 * sheet.em))
    if height < 4 * sheet.em:
        return
    left, right = 2 * sheet.margin, sheet.right - sheet.margin
    sheet.draw.rectangle((left, sheet.y, right, sheet.y + height), outline=INK, width=2)
    step = (right - left) // (bars + 1)
    for index in range(bars):
        x, top = left + step // 2 + index * step, sheet.y + sheet.dice.randint(height // 5, height - sheet.em)
        sheet.draw.rectangle((x, top, x + step // 2, sheet.y + height - 2), fill=GREY)
    sheet.y += height + sheet.em // 2
    _line(sheet, f"Figure 1.  {_words(sheet, 7).capitalize()}.", sheet.em, left)
