"""The handbook says what is so: the commands, files, names and refusals that it writes are there."""

import re
from itertools import chain
from pathlib import Path

import pytest

import dsocr_nvtx
from dsocr_nvtx.handbook import page, topics
from tests.test_readme import options, spoken

PACKAGE = Path(dsocr_nvtx.__file__).parent
ROOT = Path(__file__).parents[1]
PAGES = {name: page(name) for name in topics()}


def commands(text: str) -> list[str]:
    """Return the lines of a page's shell blocks that are ours."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if "dsocr" in line and "=" not in line.split()[0]]


SPOKEN = list(chain.from_iterable(spoken(text, commands(text)) for text in PAGES.values()))


@pytest.mark.parametrize(("name", "used"), SPOKEN)
def test_commands_are_held_to_the_command_line(name: str, used: list[str]) -> None:
    assert set(used) - {"--help"} <= options(name)


@pytest.mark.parametrize("name", PAGES)
def test_files_that_a_page_names_exist(name: str) -> None:
    named = re.findall(r"`((?:[\w.]+/)+[\w-]+\.[a-z]+)`", PAGES[name])
    near = [PACKAGE, ROOT, PACKAGE / name.removeprefix("architecture-")]
    assert [path for path in named if not any((place / path).exists() for place in near)] == []


@pytest.mark.parametrize("name", PAGES)
def test_names_that_a_page_places_in_a_file_are_in_it(name: str) -> None:
    found = re.findall(r"`(\w+)` in `([\w/]+\.py)`", PAGES[name])
    placed = [(word, PACKAGE / path) for word, path in found if "/" in path]
    assert [word for word, path in placed if word not in path.read_text(encoding="utf-8")] == []


def test_refusals_that_are_quoted_are_ours() -> None:
    quoted = re.findall(r'"([^"]+)"', " ".join(re.findall(r"\*\*(.*?)\*\*", PAGES["troubleshooting"])))
    assert len(quoted) >= 5
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert [text for text in quoted if text not in source] == []


def test_pages_that_are_named_are_there() -> None:
    named = set(re.findall(r"dsocr-nvtx guide ([a-z-]+)", " ".join(PAGES.values())))
    assert named - {*PAGES, "glossary"} == set()


def test_rooms_are_told_whole() -> None:
    """The architecture page has every room of the package, but for data and the rooms of text."""
    told = set(re.findall(r"^\| `(\w+)`(?:, `(\w+)`)?", PAGES["architecture"], re.MULTILINE))
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms - set(chain.from_iterable(told)) == {"cli", "demo", "handbook"}
