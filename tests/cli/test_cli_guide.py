"""The handbook: every page has a title and is printed, and the files that it names exist."""

import re
from pathlib import Path

import dsocr_nvtx
from dsocr_nvtx.handbook import page, topics
from tests.cli.commands import Commands

ROOT = Path(dsocr_nvtx.__file__).parent


def test_every_page_has_a_title_and_is_printed(dsocr: Commands) -> None:
    assert "architecture-hooks" in topics()
    for topic, title in topics().items():
        assert title, topic
        done = dsocr("guide", topic)
        assert (done.code, done.out) == (0, page(topic) + "\n")
    contents = dsocr("guide")
    assert all(f"guide {topic}" in contents.out for topic in topics())


def test_a_page_that_there_is_none_of_is_named(dsocr: Commands) -> None:
    done = dsocr("guide", "nothing")
    assert done.code == 2
    assert "no page 'nothing'" in done.err


def test_the_architecture_names_files_that_exist() -> None:
    """A file that is renamed must be renamed in the handbook too."""
    named = set(re.findall(r"`([\w/]+\.(?:py|c))`", page("architecture-hooks")))
    assert len(named) > 15
    for name in named:
        assert any(place.exists() for place in (ROOT / "hooks" / name, ROOT / name)), name
