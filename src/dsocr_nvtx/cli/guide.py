"""`guide`: prints a page of the handbook."""

import sys

from rich.console import Console
from rich.markdown import Markdown

from dsocr_nvtx.handbook import page, topics


def guide(topic: str | None) -> None:
    """Print a page, as plain Markdown where no terminal reads it; without a topic, which pages there are."""
    text = page(topic) if topic is not None else _contents()
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        print(text)


def _contents() -> str:
    rows = [f"- `dsocr-nvtx guide {name}`: {title}" for name, title in topics().items()]
    return "\n".join(["# The handbook", "", *rows])
