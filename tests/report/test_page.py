"""The review page as text: its totals are the tables', hostile names stay text, it asks for nothing, it stays small."""

import html.parser
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from markupsafe import escape

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.report import glossary
from dsocr_nvtx.report.opened import open_joined
from dsocr_nvtx.report.page import MOST_ROWS, review_page, roofline_picture, shorten
from dsocr_nvtx.schema.files import read_table, write_table
from tests.builders.runs import reseal
from tests.conftest import HOSTILE


class Page(html.parser.HTMLParser):
    """Elements of a page: (tag, attributes), and the text inside of scripts by type."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1] == ("script", {"type": "application/json", "id": "data"}):
            self.data += data

    def numbers(self, part: str) -> list[int]:
        """Return the exact values in a line of the time budget, in column order; the last is the total."""
        at = next(i for i, (tag, attrs) in enumerate(self.elements) if tag == "tr" and attrs.get("data-part") == part)
        found = []
        for tag, attrs in self.elements[at + 1 :]:
            if tag == "tr":
                break
            if "data-ns" in attrs:
                found.append(int(attrs["data-ns"] or ""))
        return found


@pytest.fixture(scope="module")
def demo_page(demo_out: Path) -> str:
    return review_page(open_joined(demo_out))


def test_the_time_budget_adds_up_to_the_wall_time_of_the_device(demo_out: Path, demo_page: str) -> None:
    page = Page(demo_page)
    stages = read_table(demo_out / "stages.arrow").to_pylist()
    wall = page.numbers("wall")
    parts = {
        attrs["data-part"]: page.numbers(str(attrs["data-part"])) for _, attrs in page.elements if "data-part" in attrs
    }
    assert wall[:-2] == [stage["wall_ns"] for stage in stages]
    (device,) = json.loads((demo_out / "join.json").read_text(encoding="utf-8"))["devices"]
    assert wall[-1] == sum(wall[:-1]) == device["wall_ns"]
    for column, total in enumerate(wall):
        assert sum(values[column] for name, values in parts.items() if name != "wall") == total
    for part, name in (("idle_host", "idle_host_ns"), ("idle_launch", "idle_launch_ns")):
        assert parts[part][:-2] == [stage[name] for stage in stages]
    busy = [sum(parts[p][c] for p in ("roofline", "inefficiency", "tax")) for c in range(len(stages))]
    assert busy == [stage["busy_owned_ns"] for stage in stages]


def test_rows_and_their_kernels_are_those_of_the_tables(demo_out: Path, demo_page: str) -> None:
    told = json.loads(Page(demo_page).data)
    table = read_table(demo_out / "roofline.arrow")
    at = {name: 4 + place for place, name in enumerate(told["columns"])}
    for name in ("calls", "launches", "wall_ns", "busy_owned_ns", "tax_ns", "idle_owned_ns", "roofline_ns", "lost_ns"):
        assert [row[at[name]] for row in told["rows"]] == table[name].to_pylist(), name
    # The kernels of a row, added up from the tables the slow way.
    kernels, ranges = (
        read_table(demo_out / "kernels.arrow").to_pylist(),
        read_table(demo_out / "ranges.arrow").to_pylist(),
    )
    keys = ("stage", "module", "kind", "layer")
    place = {call["event_id"]: tuple(call[key] for key in keys) for call in ranges}
    totals: dict[tuple[object, ...], dict[str, list[int]]] = {}
    for kernel in kernels:
        if kernel["event_id"] is not None:
            entry = totals.setdefault(place[kernel["event_id"]], {}).setdefault(kernel["name"], [0, 0])
            entry[0] += 1
            entry[1] += kernel["busy_owned_ns"]
    for row, shown in zip(table.to_pylist(), told["kernels"], strict=True):
        mine = totals.get(tuple(row[key] for key in keys), {})
        assert sorted((ns, count) for _, count, ns in shown) == sorted((ns, count) for count, ns in mine.values())
        assert [ns for _, _, ns in shown] == sorted((ns for _, _, ns in shown), reverse=True)
        for name, count, ns in shown:
            full = [text for text in mine if shorten(text) == told["names"][name][2]]
            assert [count, ns] in [mine[text] for text in full]


def test_the_kernels_of_the_report_are_listed_by_short_name_and_their_total_is_that_of_all(
    demo_out: Path, demo_page: str
) -> None:
    rows = read_table(demo_out / "kernels_summary.arrow").to_pylist()
    section = demo_page.partition('<section id="by-kernel"')[2].partition("</section>")[0]
    listed = [int(ns) for ns in re.findall(r'data-ns="(\d+)"', section)]
    kernels = read_table(demo_out / "kernels.arrow")
    assert listed == [row["total_ns"] for row in rows] == sorted(listed, reverse=True)
    assert sum(listed) == sum(pc.subtract(kernels["end_ns"], kernels["start_ns"]).to_pylist())
    assert "<summary><bdi>elementwise_kernel&lt;CUDAFunctor_add, bf16&gt;</bdi></summary>" in section


def test_a_page_asks_for_nothing_and_is_small(demo_page: str) -> None:
    assert len(demo_page.encode()) < 1_000_000
    for tag, attrs in Page(demo_page).elements:
        for name in ("src", "href", "action", "data", "srcset", "xlink:href"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:,")), (tag, name, value)
    assert "url(" not in demo_page
    assert "@import" not in demo_page
    assert "default-src 'none'" in demo_page


def test_every_reference_has_its_target_and_no_id_is_twice(demo_page: str) -> None:
    page = Page(demo_page)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    references = [str(attrs["href"])[1:] for tag, attrs in page.elements if tag == "a" and "href" in attrs]
    references += [word for _, attrs in page.elements for word in str(attrs.get("aria-labelledby") or "").split()]
    assert set(references) <= set(ids)


def test_hostile_names_are_text(hostile_out: Path) -> None:
    text = review_page(open_joined(hostile_out))
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 2, "the page's data and its own script"
    assert not [tag for tag, attrs in page.elements if tag == "img" or any(name.startswith("on") for name in attrs)]
    assert len(text) < 1_400_000, "a name of 100 kB is cut"
    assert "(100,000 characters)" in text
    assert "{{ 7 * 7 }}" in text
    told = json.loads(page.data)
    assert {shorten(name) for name in HOSTILE} <= {name for _, _, name in told["names"]}
    assert any(row[2] == HOSTILE[0] for row in told["rows"])
    assert not re.search("[<>&]", page.data)


def test_rows_beyond_what_a_page_lists_are_added_up(demo_out: Path, tmp_path: Path) -> None:
    table = read_table(demo_out / "roofline.arrow")
    many = table.take([i % len(table) for i in range(MOST_ROWS + 70)]).sort_by([("lost_ns", "descending")])
    many = many.set_column(
        many.schema.get_field_index("layer"), many.schema.field("layer"), pa.array(range(len(many)), pa.int32())
    )
    for path in demo_out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_table(many, tmp_path / "roofline.arrow")
    reseal(tmp_path)
    page = Page(review_page(open_joined(tmp_path)))
    (rest,) = [attrs for _, attrs in page.elements if attrs.get("id") == "others"]
    assert rest["data-count"] == "70"
    assert int(str(rest["data-wall-ns"])) == sum(many["wall_ns"].to_pylist()[MOST_ROWS:])
    assert len(json.loads(page.data)["rows"]) == MOST_ROWS


def test_the_same_tables_make_the_same_page(demo_out: Path, demo_page: str) -> None:
    assert review_page(open_joined(demo_out)) == demo_page


def test_the_picture_is_svg_that_runs_nothing(hostile_out: Path) -> None:
    text = roofline_picture(open_joined(hostile_out))
    root = ElementTree.fromstring(text)
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("path") > 50
    assert not {"script", "img", "foreignObject", "image"} & set(names)


def test_what_was_not_measured_says_how_to_measure_it(demo_page: str) -> None:
    for option in ("run --observe-experts", "run --power", "run --calibrate"):
        assert option in demo_page


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("join.json", None, "no join.json in it"), ("join.json", "{", "not the accounting"),
        ("join.json", "[]", "not the accounting"), ("join.json", '{"source": {}}', "not the accounting"),
        ("roofline.arrow", None, "no such file"), ("stages.arrow", "x", "not an Arrow"),
        ("kernels.arrow", None, "no such"),
    ],
)  # fmt: skip
def test_a_directory_that_is_no_join_is_refused(
    demo_out: Path, tmp_path: Path, name: str, text: str | None, found: str
) -> None:
    for path in demo_out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink()
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(Refused, match=found):
        review_page(open_joined(tmp_path))


@pytest.mark.parametrize("left", [0, 7])
def test_operations_of_calls_that_the_ranges_lack_are_of_another_join(
    demo_out: Path, tmp_path: Path, left: int
) -> None:
    """With no ranges at all too: places of calls then point nowhere."""
    shutil.copytree(demo_out, tmp_path / "out")
    ranges = tmp_path / "out" / "ranges.arrow"
    write_table(read_table(ranges).slice(0, left), ranges)
    reseal(tmp_path / "out")
    with pytest.raises(Refused, match=r"an operation of call \d+, which ranges\.arrow does not have"):
        review_page(open_joined(tmp_path / "out"))


@pytest.mark.parametrize("column", ["tax_ns", "wall_ns"])
def test_tables_of_an_older_version_are_refused_by_their_missing_column(
    demo_out: Path, tmp_path: Path, column: str
) -> None:
    for path in demo_out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_table(read_table(demo_out / "roofline.arrow").drop_columns([column]), tmp_path / "roofline.arrow")
    with pytest.raises(Refused, match=f"no column {column}; name a directory .* join the report again"):
        open_joined(tmp_path)


def test_every_heading_says_what_it_means(demo_page: str) -> None:
    """But for the stages, which are columns too, and of the heat map the kinds, in elements of their own."""
    cell = r'<th scope="col"[^>]*?(?: title="([^"]*)")?>(?:<button[^>]*?title="([^"]*)"[^>]*>)?([^<]+)<'
    headings = [(text.strip(), one or two) for one, two, text in re.findall(cell, demo_page)]
    assert len(headings) > 50
    assert [text for text, title in headings if not title] == ["vision", "prefill", "decode"]


def test_the_page_has_its_words_without_hovering(demo_page: str) -> None:
    for word, text in glossary.TERMS.items():
        assert f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" in demo_page
