"""`guide`: prints a page of the handbook."""

import sys

from rich.console import Console
from rich.markdown import Markdown

from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.handbook import page, topics
from dsocr_nvtx.report.glossary import TITLE, glossary_page


def guide(topic: str | None) -> None:
    """Print a page, as plain Markdown where no terminal reads it; without a topic, which pages there are."""
    text = _page(topic) if topic is not None else _contents()
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        print(text)


_GLOSSARY = "glossary"
"""The one page that is made of what the tables' schemas say of themselves."""


def _every() -> dict[str, str]:
    return dict(sorted({**topics(), _GLOSSARY: TITLE}.items()))


def _page(topic: str) -> str:
    if topic not in _every():
        raise UsageError(f"the handbook has no page {topic!r}; say one of {', '.join(_every())}")
    return glossary_page() if topic == _GLOSSARY else page(topic)


def _contents() -> str:
    rows = [f"- `dsocr-nvtx guide {name}`: {title}" for name, title in _every().items()]
    return "\n".join(["# The handbook", "", *rows])
