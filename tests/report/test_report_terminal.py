"""The page that a terminal shows: numbers are the tables' and add up again, it fits, and nothing in it is markup."""

import io
import re
from decimal import Decimal

import pytest
from attrs import evolve
from rich.console import Console

from dsocr_nvtx.join.accounting import Accounting, Count
from dsocr_nvtx.join.times import DeviceTime
from dsocr_nvtx.report.terminal import as_plain, show
from dsocr_nvtx.roofline.points import Roofline
from tests.builders.tables import Row
from tests.roofline.test_roofline_points import points, timed

TIMES = ("wall", "busy", "idle", "roofline")
MS = 1_000_000

ROWS: list[Row] = [
    timed(0, 30 * MS, 10 * MS, stage="vision", module="sam", layer=2, kind="global_attention", tensor_flops=10**10),
    timed(1, 20 * MS, 50 * MS, stage="vision", module="clip", layer=0, kind="attention"),
    timed(2, 70 * MS, 10 * MS, stage="prefill", layer=1, kind="experts", weight_bytes=60 * MS),
    timed(3, 5 * MS, 95 * MS, stage="decode", layer=1, kind="experts", weight_bytes=2 * MS),
    timed(4, 5 * MS, 1 * MS, stage="decode", path="lm_head", module="lm_head", kind="lm_head", weight_bytes=1 * MS),
    timed(5, 0, 0, stage="decode", module="embed", path="embed", kind="embed"),
]  # fmt: skip

ACCOUNTS = Accounting(
    operations=1234, total_ns=130 * MS, ranges=6, announcements=0, covered=0.99123, covered_by_leaves=0.5,
    buckets={"attributed": Count(1200, 129 * MS), "outside": Count(34, 1 * MS), "other_thread": Count(0, 0)},
    cost_sources={"binary": 4, "none": 2}, classes={},
    devices=(DeviceTime(device=0, window=(0, 300 * MS), operations=1234, busy_ns=130 * MS,
                        idle_ns={"host": 166 * MS, "none": 4 * MS}, unknown_thread_ns=0),),
)  # fmt: skip


def page(found: Roofline, *, width: int = 200, losses: int = 10, accounts: Accounting = ACCOUNTS) -> str:
    """Return what a terminal of so many characters shows."""
    stream = io.StringIO()
    show(Console(file=stream, width=width), found, accounts, losses=losses)
    return stream.getvalue()


def table(text: str, title: str) -> list[dict[str, str]]:
    """Return a printed table as rows, up to the empty line after it."""
    lines = [line.strip() for line in text.split(title, 1)[1].splitlines()[1:]]
    header, *rows = lines[: lines.index("")]
    heading = header.replace("roof/busy", "of_roof").replace("of wall", "of_wall")
    names = re.sub(r"(TFLOP/s|GB/s|MFU|MBU) (busy|wall)", r"\1", heading).split()
    found = []
    for row in rows:
        cells = row.split()
        extra = len(cells) - len(names)  # a place is of two words
        if extra:
            at = names.index("where")
            cells[at : at + 1 + extra] = [" ".join(cells[at : at + 1 + extra])]
        found.append(dict(zip(names, cells, strict=True)))
    return found


def number(text: str) -> Decimal:
    """Return a printed number exactly."""
    return Decimal(text.replace(",", "").rstrip("%"))


def test_printed_stages_are_the_sums_of_printed_rows() -> None:
    text = page(points(ROWS))
    stages, rows = table(text, "Stages (times in ms)"), table(text, "The 6 rows that lose most (times in ms)")
    assert [stage["stage"] for stage in stages] == ["vision", "prefill", "decode"]
    for stage in stages:
        mine = [row for row in rows if row["stage"] == stage["stage"]]
        for name in TIMES:
            assert sum((number(row[name]) for row in mine), Decimal()) == number(stage[name]), (stage["stage"], name)
    for line in [*stages, *rows]:
        assert number(line["busy"]) + number(line["idle"]) == number(line["wall"])
    for row in rows:
        assert number(row["wall"]) - number(row["roofline"]) == number(row["lost"])
    assert [row["where"] for row in rows][:2] == ["decoder.1 experts", "clip.0 attention"]
    # vision: 30 + 10 + 20 + 50 ms, of which the roof is 10^10 FLOP / 1000 a ns = 10 ms
    assert (stages[0]["wall"], stages[0]["busy"], stages[0]["roofline"], stages[0]["of_roof"]) == (
        "110.00", "50.00", "10.00", "20.0%",
    )  # fmt: skip


def test_shares_of_the_wall_are_of_all_stages() -> None:
    rows = table(page(points(ROWS)), "rows that lose most (times in ms)")
    # 98 of 296 ms: 110 + 80 + 106
    assert rows[0]["of_wall"] == "33.1%"


def test_only_so_many_rows_as_asked_and_the_title_says_how_many() -> None:
    text = page(points(ROWS), losses=2)
    assert len(table(text, "The 2 rows that lose most (times in ms)")) == 2
    assert "The 6 rows that lose most" in page(points(ROWS), losses=99)


def test_every_row_states_its_bound() -> None:
    rows = table(page(points(ROWS)), "rows that lose most (times in ms)")
    assert {row["where"]: row["bound"] for row in rows} == {
        "sam.2 global_attention": "inefficient",  # 10 of 30 ms
        "clip.0 attention": "host",
        "decoder.1 experts": "memory",  # prefill's: 60 of 70 ms; decode's comes first and is overwritten
        "lm_head lm_head": "inefficient",
        "embed embed": "-",
    }


@pytest.mark.parametrize("width", [60, 80, 100, 116, 200])
def test_tables_fit_the_terminal_and_none_is_cut(width: int) -> None:
    text = page(points(ROWS), width=width)
    tables = text.split("Stages (times in ms)")[1].split("roofs: ")[0]
    assert max(len(line.rstrip()) for line in tables.splitlines()) <= width
    assert "…" not in tables
    for word in ("decoder.1 experts", "sam.2 global_attention", "110.00"):
        assert word in tables


def test_the_accounting_is_all_there() -> None:
    text = page(points(ROWS))
    assert text.splitlines()[-9:] == [
        "",
        "roofs: round, by hand; level op",
        "1,234 GPU operations, 130.00 ms; between the first and the last hooked call 99.12% of that time has a range, "
        "50.00% a leaf range",
        "2 ranges have no cost in this report: their work is missing",
        "not attributed, outside: 34 operations, 1.00 ms",
        "how much the profiler slowed this run is not known: record with run --calibrate, join with --run; idle time "
        "includes what watching added",
        "experts hit are expected: without observing, uniform routing is assumed and bytes are an estimate",
        "50.0% of the operation time is containers' own (rows of kind rest) or between ranges, not in a leaf range",
        "GPU 0: 300.00 ms from the first operation or hooked call to the last, of which 4.00 ms idle outside every "
        "range",
    ]
    assert "other thread" not in text, "what did not happen is not listed"
    whole = page(points(ROWS), accounts=evolve(ACCOUNTS, cost_sources={"binary": 6, "none": 0}))
    assert "no cost in this report" not in whole


def test_brackets_in_names_are_text() -> None:
    found = points(ROWS)
    hostile = evolve(found, roofs=evolve(found.roofs, device="[/red][bold]x", source="[link=http://example.com]y"))
    assert "roofs: [/red][bold]x, [link=http://example.com]y" in page(hostile)


def test_nothing_at_all_is_still_a_page() -> None:
    nothing = evolve(ACCOUNTS, operations=0, total_ns=0, buckets={}, cost_sources={}, devices=())
    text = page(points([]), accounts=nothing)
    assert "Stages" in text
    assert "The 0 rows that lose most" in text


def test_rows_of_several_processes_say_whose_they_are() -> None:
    rows = [timed(0, 30 * MS, 10 * MS, pid=71, rank=1), timed(0, 20 * MS, 10 * MS, pid=72, rank=0)]
    text = page(points(rows))
    assert [row["rank"] for row in table(text, "Stages (times in ms)")] == ["1", "0"]
    assert "rank 1: decode is" in text
    nameless = page(points([timed(0, 30 * MS, pid=71), timed(0, 20 * MS, pid=72)]))
    assert "pid 71: decode is" in nameless
    assert "rank" not in page(points(rows[:1]))


def test_processes_are_told_apart_in_headings_and_in_json() -> None:
    rows = [timed(0, 5 * MS, 5 * MS, pid=pid, stage="decode") for pid in (1, 2)]
    found = points(rows)
    text = page(found)
    assert "decode (rank 0, process 1, GPU 0)" in text
    assert "decode (rank 0, process 2, GPU 0)" in text
    wall = as_plain(found, ACCOUNTS, losses=1)["budget"]["wall"]  # type: ignore[index]
    assert list(wall.values())[:2] == [10 * MS, 10 * MS]
