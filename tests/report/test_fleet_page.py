"""The page of a fleet: every rank a row, every link leads somewhere, nothing from a report is markup."""

import re
from concurrent.futures import Executor, ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from dsocr_nvtx.fleet.crew import Crew
from dsocr_nvtx.fleet.engine import Fleet, FleetOptions, join_fleet, plan_fleet
from dsocr_nvtx.fleet.inputs import inputs_of
from dsocr_nvtx.fleet.state import Folders
from dsocr_nvtx.report import fleet_page
from dsocr_nvtx.report.fleet_page import fleet_model, write_fleet_pages
from tests.fleet.reports import write_report, write_uneven


class Links(HTMLParser):
    """The links of a page, and whether anything in it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def joined(folder: Path, out: Path) -> Fleet:
    def start() -> Executor:
        return ThreadPoolExecutor(1)

    options = FleetOptions()
    return join_fleet(plan_fleet(inputs_of([folder / "*.sqlite"]), out, options), lambda: Crew(start, 2), options)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Join five ranks, one slow, and a damaged report with a hostile name."""
    folder = tmp_path / "reports"
    folder.mkdir()
    for rank in range(4):
        write_report(folder / f"rank-{rank}.sqlite", rank)
    write_report(folder / "a b<i>.sqlite", 4, busy=80)
    (folder / "<script>.sqlite").write_text("no")
    return joined(folder, tmp_path / "out")


def test_ranks_are_rows_and_outliers_are_named(fleet: Fleet) -> None:
    model = fleet_model(fleet)
    assert (model.ranks, model.reports, len(model.rows)) == (5, 6, 5)
    assert ["<script>" in error for _, error in model.failed] == [True]
    (slow,) = [row for row in model.rows if row.rank == 4]
    assert (slow.cells["decode"].slowdown, slow.cells["decode"].busy_slowdown) == (1.0, 2.0)
    (sentence,) = model.outliers
    assert "is busy 2.00 times the usual, 0.00 ms more, in 1.00 times the usual wall time" in sentence
    assert model.rows[0] == slow, "a rank that is slow by its busy time alone comes before those that are not"


def test_every_link_leads_to_a_page(fleet: Fleet) -> None:
    page = write_fleet_pages(fleet)
    found = Links()
    found.feed(page.read_text())
    assert len(found.links) == 5
    for link in found.links:
        own = page.parent / unquote(link)
        assert own.is_file(), link
        back = Links()
        back.feed(own.read_text())
        assert [one for one in back.links if one[0] not in "#d"] == ["../fleet.html"]
        assert "What binds each stage" in own.read_text(), "it is a whole review"


def test_a_review_is_written_again_only_after_its_report_was_joined_again(fleet: Fleet) -> None:
    page = write_fleet_pages(fleet)
    old, new = sorted((page.parent / "rank-pages").iterdir())[:2]
    old.write_text("old")
    new.write_text("new")
    Folders(fleet.out).state(new.stem).touch()
    write_fleet_pages(fleet)
    assert old.read_text() == "old"
    assert new.read_text() != "new"


def test_a_page_elsewhere_has_its_reviews_beside_it(fleet: Fleet, tmp_path: Path) -> None:
    page = write_fleet_pages(fleet, tmp_path / "else" / "where.html")
    found = Links()
    found.feed(page.read_text())
    assert all((page.parent / unquote(link)).is_file() for link in found.links)
    assert "../where.html" in (page.parent / "where-ranks" / "rank-0.html").read_text()


def test_nothing_from_a_report_is_markup(fleet: Fleet) -> None:
    page = write_fleet_pages(fleet)
    every = [page, *(page.parent / "rank-pages").iterdir()]
    for path in every:
        found = Links()
        found.feed(path.read_text())
        ours = {"script"} if path.parent != page.parent else set()
        assert not found.tags & ({"script", "i", "img", "iframe"} - ours)
        assert "<script>.sqlite" not in path.read_text()
        assert not re.search(r"https?://", path.read_text())


def test_a_slow_rank_is_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    for rank in range(5):
        write_report(folder / f"rank-{rank}.sqlite", rank, pace=300 if rank == 2 else 100)
    model = fleet_model(joined(folder, tmp_path / "out"))
    (sentence,) = model.outliers
    assert sentence.startswith("decode: rank 2 (rank-2, node-1) takes 3.00 times the usual time")
    assert sentence.endswith("its GPU waited longer")
    assert model.rows[0].cells["decode"].heat == 4


def test_the_usual_time_that_ranks_are_held_against_is_the_one_that_is_shown(tmp_path: Path) -> None:
    found = joined(write_uneven(tmp_path / "reports"), tmp_path / "out")
    (stage,) = fleet_model(found).stages
    assert (stage["usual_wall_ns"], stage["median_wall_ns"]) == (32_000_000, 20_000_000)
    page = write_fleet_pages(found).read_text()
    assert "<th>usual ms</th>" in page
    assert "<td>32.00</td>" in page
    assert "<td>20.00</td>" not in page


def test_ranks_without_numbers_go_by_their_reports_and_unequal_steps_are_told(tmp_path: Path) -> None:
    found = joined(write_uneven(tmp_path / "reports"), tmp_path / "out")
    model, page = fleet_model(found), write_fleet_pages(found).read_text()
    assert [sentence.split(" takes ")[0] for sentence in model.outliers] == ["decode: r2 (node-0)"]
    assert "rank 0" not in page
    assert "<th>rank</th>" not in page
    assert "<li>decode steps differ, 2 to 4 a rank: read more work and waiting with care</li>" in page


def test_the_page_has_a_bound_whatever_the_fleet_has(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_page, "MOST_ROWS", 2)
    page = write_fleet_pages(fleet)
    assert "the 2 slowest of 5" in page.read_text()
    assert len(list((page.parent / "rank-pages").iterdir())) == 2


def test_beyond_so_many_reviews_ranks_have_no_link(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_page, "MOST_PAGES", 1)
    page = write_fleet_pages(fleet)
    assert [row.link != "" for row in fleet_model(fleet).rows] == [True, False, False, False, False]
    assert len(list((page.parent / "rank-pages").iterdir())) == 1
