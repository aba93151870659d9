"""Words on a drawing, placed so that none lies on a line, a mark or another word; what finds no place is left out.

A text is covered by squares along its baseline, so that turned ones need nothing of their own. Coordinates are SVG
units, y downwards.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from attrs import define, field, frozen

SIZE = 12.0
"""Of the font."""
_WIDE = 7.2
"""Width of a character of the widest of the fonts that a browser may take, on average."""
_HALF = 6.5
"""Half the side of a square that covers a piece of text."""

Segment = tuple[float, float, float, float]


@frozen
class Label:
    """A text that begins at (x, y), its baseline, turned by ``angle`` degrees."""

    text: str
    x: float
    y: float
    angle: float = 0.0

    def squares(self) -> Iterator[tuple[float, float]]:
        """Yield the middles of the squares that cover it."""
        turn = math.radians(self.angle)
        width = len(self.text) * _WIDE
        count = max(math.ceil(width / _HALF), 2)
        for at in range(count):
            along = _HALF + at * max(width - 2 * _HALF, 0) / (count - 1)
            up = SIZE * 0.36
            yield (
                self.x + along * math.cos(turn) + up * math.sin(turn),
                self.y + along * math.sin(turn) - up * math.cos(turn),
            )


@define
class Words:
    """The words placed so far on a drawing from (left, top) to (right, bottom), and what they keep off."""

    left: float
    top: float
    right: float
    bottom: float
    lines: Sequence[Segment] = ()
    marks: list[tuple[float, float, float]] = field(factory=list)
    _taken: list[tuple[float, float]] = field(factory=list)

    def place(self, candidates: Iterable[Label], own: Segment | None = None) -> Label | None:
        """Return the first of several labels that is free, and keep its place; ``own`` is a line that it stands at."""
        for one in candidates:
            squares = list(one.squares())
            if all(self._is_free(x, y, own) for x, y in squares):
                self._taken += squares
                return one
        return None

    def _is_free(self, x: float, y: float, own: Segment | None) -> bool:
        if not (self.left + _HALF <= x <= self.right - _HALF and self.top + _HALF <= y <= self.bottom - _HALF):
            return False
        if any(abs(x - tx) < 2 * _HALF and abs(y - ty) < 2 * _HALF for tx, ty in self._taken):
            return False
        if any(abs(x - mx) < _HALF + size and abs(y - my) < _HALF + size for mx, my, size in self.marks):
            return False
        return all(line == own or _distance(x, y, line) > _HALF for line in self.lines)


def _distance(x: float, y: float, line: Segment) -> float:
    """Return how far a place is from a line that ends at both ends."""
    x1, y1, x2, y2 = line
    dx, dy = x2 - x1, y2 - y1
    length = dx * dx + dy * dy
    share = min(max(((x - x1) * dx + (y - y1) * dy) / length, 0.0), 1.0) if length else 0.0
    return math.hypot(x - x1 - share * dx, y - y1 - share * dy)


def beside(text: str, x: float, y: float, size: float) -> Iterator[Label]:
    """Yield places of a label around a mark: right, left, above, below, then farther off."""
    width = len(text) * _WIDE
    for off in (4.0, 14.0, 26.0):
        side = size + off
        yield Label(text, x + side, y + 4)
        yield Label(text, x - side - width, y + 4)
        yield Label(text, x - width / 2, y - side)
        yield Label(text, x - width / 2, y + side + SIZE * 0.7)
        yield Label(text, x + side, y - side)
        yield Label(text, x + side, y + side + SIZE * 0.7)
        yield Label(text, x - side - width, y - side)
        yield Label(text, x - side - width, y + side + SIZE * 0.7)


def along(text: str, line: Segment) -> Iterator[Label]:
    """Yield places of a label at a line, above it before below, from its far end to its near end.

    A text that is longer than the line ends with it.
    """
    x1, y1, x2, y2 = line
    turn = math.atan2(y2 - y1, x2 - x1)
    width = len(text) * _WIDE
    length = math.hypot(x2 - x1, y2 - y1)
    for off in (-_HALF - 1, _HALF + SIZE * 0.75, -_HALF - 12, _HALF + SIZE * 0.75 + 12):
        room = length - width
        for start in [share * room for share in (0.98, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)] if room > 0 else [room]:
            yield Label(
                text,
                round(x1 + start * math.cos(turn) - off * math.sin(turn), 1),
                round(y1 + start * math.sin(turn) + off * math.cos(turn), 1),
                round(math.degrees(turn), 1),
            )
