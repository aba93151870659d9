"""The handbook: Markdown pages that ship with the package. `dsocr-nvtx guide` prints them."""

from importlib.resources import files


def topics() -> dict[str, str]:
    """Return the title of every page, by the name that `guide` takes, in alphabetical order."""
    pages = sorted(entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".md"))
    return {name.removesuffix(".md"): _text(name).splitlines()[0].removeprefix("# ") for name in pages}


def page(topic: str) -> str:
    """Return the Markdown text of a page, one of `topics`."""
    return _text(f"{topic}.md")


def _text(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")
