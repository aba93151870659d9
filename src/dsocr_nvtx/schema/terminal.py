"""The terminal as both halves write to it: no byte of a report, a path or a table moves its cursor."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from dsocr_nvtx.errors import printable


class Terminal(Console):
    """A console that spells out what is not printable in whatever it prints; its own colours are no such thing."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is to be printed."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
