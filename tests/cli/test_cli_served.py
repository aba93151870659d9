"""The review of a served run: its sentences, and figures that page, terminal and JSON show alike, and that add up."""

import json
from pathlib import Path

import pytest
from attrs import evolve

from dsocr_nvtx.report.opened import open_joined
from dsocr_nvtx.report.page import review_page
from dsocr_nvtx.report.served import owner_words, page_lines, page_verdict, section, served_lines
from dsocr_nvtx.roofline.pages import PagePart, PageTime
from dsocr_nvtx.schema.records import Stage
from tests.builders.served import ENGINE, ServedFile, two_pages
from tests.cli.commands import Commands
from tests.report.test_page import Page

MS = 1_000_000
IDLE = "a page waits 90% of its time with the GPU idle between its steps, most for"
PAGES = PageTime(
    pages=2, untold=1, latency_ns=200 * MS, gpu_idle=(PagePart("idle", "host.preprocessing", 60 * MS),),
    parts=(
        PagePart("preparing", "", 122 * MS), PagePart("waiting", "", 8 * MS), PagePart("own", "decode", 40 * MS),
        PagePart("others", "", 10 * MS), PagePart("idle", "host.scheduling", 15 * MS),
        PagePart("idle", "outside", 5 * MS),
    ),
    median_latency_ns=100 * MS, median_waiting_ns=65 * MS, median_first_token_ns=70 * MS, tokens=256,
    tokens_per_s=1280.0,
)  # fmt: skip


@pytest.fixture(name="out")
def join_two_pages(dsocr: Commands, tmp_path: Path) -> Path:
    report = two_pages().file.write(tmp_path / "served.sqlite")
    done = dsocr("join", report)
    assert (done.code, done.err) == (0, "")
    assert "a page's own steps keep the GPU busy 48% of its time" in done.out
    return tmp_path / "served.dsocr"


def test_what_a_page_waits_for_in_one_sentence() -> None:
    said = page_verdict(PAGES)
    assert said == (
        "a page waits 61% of its time for its own preprocessing on the host; 2 pages, the middle one 100.00 ms from "
        "arrival to end, 70.00 ms to its first token; the GPU is idle 30% of a page's time, 100% of it for host: image "
        "preprocessing"
    )


@pytest.mark.parametrize(
    ("group", "what", "said"),
    [
        ("waiting", "", "a page waits 90% of its time for its first step;"),
        ("own", "decode", "a page's own steps keep the GPU busy 90% of its time, most in decode steps;"),
        ("others", "", "a page waits 90% of its time while the GPU works for others;"),
        ("idle", "host.scheduling", f"{IDLE} host: scheduling;"),
        ("idle", "decode", f"{IDLE} ranges of decode;"),
    ],
)  # fmt: skip
def test_each_part_may_be_the_largest(group: str, what: str, said: str) -> None:
    parts = (PagePart("preparing", "", 20 * MS), PagePart(group, what, 180 * MS))
    found = evolve(PAGES, parts=parts, gpu_idle=(), pages=1, median_first_token_ns=None)
    assert page_verdict(found).startswith(said)
    assert page_verdict(found).endswith("one page, 100.00 ms from arrival to end")


def test_owners_in_words() -> None:
    words = {
        "host.logits_processors": "host: logits processors",
        "host.my_own": "host: my own",
        "outside": "nothing that has a range",
    }
    assert {owner: owner_words(owner) for owner in words} == words


def test_the_page_shows_parts_that_add_up_to_the_pages_latencies(out: Path) -> None:
    page = Page(review_page(open_joined(out)))
    rows = [at for at, (tag, attrs) in enumerate(page.elements) if tag == "tr" and "data-page-part" in attrs]
    told = {page.elements[at][1]["data-page-part"]: page.elements[at:] for at in rows}
    ns = {key: int(next(ns for _, attrs in rest if (ns := attrs.get("data-ns")))) for key, rest in told.items()}
    assert sum(ns.values()) == 1160 + 860
    assert (ns["preparing"], ns["own.mixed"], ns["idle.host.preprocessing"]) == (700, 526, 10)


def test_a_page_of_a_run_that_is_not_served_has_no_such_section(demo_out: Path) -> None:
    opened = open_joined(demo_out)
    assert opened.served_review is None
    assert 'id="pages"' not in review_page(opened)


def test_show_tells_as_json_what_the_tables_hold(out: Path, dsocr: Commands) -> None:
    told = json.loads(dsocr("show", out, "--json").out)["served"]
    assert sum(told["pages"]["parts"].values()) == told["pages"]["latency_ns"] == 2020
    assert [batch["stage"] for batch in told["batches"]] == ["prefill", "decode", "mixed"]
    assert told["padding"] == 9 / 413
    # 0..1160, of which 652 busy; 730..740 and 1040..1050 in no range
    assert sum(told["idle"].values()) == 1160 - 652
    assert told["idle"]["outside"] == 20
    shown = dsocr("show", out).out
    assert "waiting for its first step" in shown
    assert "2.2% of the rows that forwards are run with only pad the batch" in shown


def test_bars_of_sequences_are_as_high_as_the_tallest(out: Path) -> None:
    review = open_joined(out).served_review
    assert review is not None
    found = section(review)
    assert max(bar.every for bar in found.bars) == 100
    assert (len(found.bars), round(found.tallest, 9)) == (120, 2)
    assert all(0 <= bar.decode <= bar.every for bar in found.bars)


def test_contradictions_and_lost_steps_are_grave(dsocr: Commands, tmp_path: Path) -> None:
    file = two_pages()
    file.step(2000, 2200, Stage.DECODE, [("a", 1, 904, "d")], told=(1, 903))
    file.file.mark("dsocr/2s 999 0 a:1:2:d", 5000, pid=ENGINE)
    file.file.mark("dsocr/2r a vanished", 5003, pid=ENGINE)
    report = file.file.write(tmp_path / "served.sqlite")
    assert dsocr("join", report).code == 0
    told = json.loads(dsocr("show", tmp_path / "served.dsocr", "--json").out)["caveats"]
    grave = [one["text"] for one in told if one["is_grave"]]
    assert any(
        text.startswith("1 of 5 served steps contradict what the scheduler said: step of event") for text in grave
    )
    assert "1 served steps have no range in this report: they are missing" in grave
    assert "1 marks of a serving engine cannot be read, and are left out" in grave


def test_a_damaged_table_of_requests_is_refused_by_name(out: Path, dsocr: Commands) -> None:
    table = out / "requests.arrow"
    data = bytearray(table.read_bytes())
    at = data.index((1160).to_bytes(8, "little"))
    data[at] ^= 1
    table.write_bytes(bytes(data))
    done = dsocr("show", out)
    assert done.code == 3
    assert "requests.arrow" in done.err


def test_steps_alone_have_batches_and_no_pages(tmp_path: Path, dsocr: Commands) -> None:
    file = ServedFile()
    file.step(0, 200, Stage.DECODE, [("a", 1, 5, "d")], padded=8)
    assert dsocr("join", file.file.write(tmp_path / "served.sqlite")).code == 0
    review = open_joined(tmp_path / "served.dsocr").served_review
    assert review is not None
    assert review.pages is None
    *_, idle, padding = served_lines(review)
    assert padding == "87.5% of the rows that forwards are run with only pad the batch"
    # 200 ns less 160 and 3 busy: preparing 1..10, sampling 188..199 less its kernel's 3; the rest is the model's
    assert idle.startswith("of the GPU's idle time while pages were there, 0.00 ms: 46% in host work by name, 54% in ")
    assert section(review).pages == ()
    assert [line.name for line in page_lines(PAGES)][:2] == [
        "being preprocessed on the host",
        "waiting for its first step",
    ]
