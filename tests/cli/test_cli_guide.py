"""The handbook: every page has a title and is printed, and the files that it names exist."""

import re
from pathlib import Path

import dsocr_nvtx
from dsocr_nvtx.handbook import page, topics
from dsocr_nvtx.report.glossary import HEADINGS, TERMS
from dsocr_nvtx.report.kernels import COLUMNS
from dsocr_nvtx.report.terminal import LOSS_COLUMNS, STAGE_COLUMNS
from dsocr_nvtx.schema.fleet import FLEET_RANKS
from dsocr_nvtx.schema.gauges import LADDER
from dsocr_nvtx.schema.summaries import KERNELS_SUMMARY
from dsocr_nvtx.schema.tables import MEASURED, ROOFLINE, STAGES
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


def test_the_glossary_has_every_column_with_its_meaning_and_every_word(dsocr: Commands) -> None:
    text = dsocr("guide", "glossary").out
    for schema in (ROOFLINE, STAGES, KERNELS_SUMMARY, MEASURED, LADDER, FLEET_RANKS):
        for field in schema:
            meaning = field.metadata[b"description"].decode().replace("|", r"\|")
            assert f"| `{field.name}` | {field.metadata[b'unit'].decode()} | {meaning} |" in text
    for word in ("roof", "tax", "rest", "lost", "MFU wall", "MBU wall", "idle"):
        assert f"- **{word}**: {TERMS[word]}" in text
    assert "fusible" in TERMS["tax"]
    assert "guide glossary" in dsocr("guide").out


def test_ratios_in_one_table_say_what_they_are_shares_of() -> None:
    """Achieved rates are over busy time, utilisation is over wall time: beside each other, each says so."""
    titles = {column.title for column in (*STAGE_COLUMNS, *LOSS_COLUMNS, *COLUMNS)}
    rates = {title for title in titles if "/" in title or title.startswith(("MFU", "MBU", "of "))}
    assert len(rates) == 7
    assert all(re.split("[ /]", title)[-1] in ("busy", "wall") for title in rates), rates
    assert rates <= {*TERMS, *HEADINGS, "of stage's busy"}
