"""Comparisons and gates as people read them: names are text, sums are those of the tables, nothing is fetched."""

import re
from html.parser import HTMLParser
from io import StringIO

import pytest
from rich.console import Console

from dsocr_nvtx.compare.comparison import Comparison, compare
from dsocr_nvtx.compare.gate import gate
from dsocr_nvtx.compare.lines import Moved
from dsocr_nvtx.compare.outs import Out
from dsocr_nvtx.compare.rules import parse_rule
from dsocr_nvtx.report import changes
from dsocr_nvtx.report.changes import headline
from dsocr_nvtx.report.comparison_markdown import comparison_markdown, escaped, gate_markdown
from dsocr_nvtx.report.comparison_page import comparison_page
from dsocr_nvtx.report.comparison_terminal import show_comparison, show_gate
from tests.builders.runs import call, out_of

HOSTILE = "<script>alert(1)</script>|`x`\n# **b** [l](javascript:1) &amp; \x1b[31m {{ 7*7 }}"


def hostile() -> Comparison:
    """Return a comparison in which every name is hostile."""
    a, b = (
        out_of(
            [call(busy, 900_000, step=step, kind=HOSTILE, module=HOSTILE) for step in range(10)],
            where=HOSTILE,
            about={"device": HOSTILE + where},
        )
        for busy, where in ((100_000, "A"), (120_000, "B"))
    )
    return compare(a, b)


class Tags(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag; none may fetch anything."""
        self.tags.append(tag)
        assert not {"src", "href", "onload", "onclick"} & {name for name, value in attrs if value != "data:,"}

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.text += data


def test_the_page_shows_hostile_names_as_text_and_fetches_nothing() -> None:
    page = comparison_page(hostile())
    found = Tags(page)
    assert "script" not in found.tags
    assert "<script>alert(1)</script>" in found.text
    assert "{{ 7*7 }}" in found.text
    assert "//" not in page.replace("<!DOCTYPE", "")


def test_the_page_has_a_language_headings_in_order_and_header_cells() -> None:
    page = comparison_page(hostile())
    assert '<html lang="en">' in page
    assert [int(level) for level in re.findall(r"<h(\d)", page)] == [1, 2, 2, 2]
    assert page.count("<caption>") == page.count("<table")
    assert 'scope="col"' in page


def test_markdown_cells_stay_cells_and_no_name_is_markup() -> None:
    text = comparison_markdown(hostile())
    assert "<" not in text.replace("&#", "")
    assert "`" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert "\x1b" not in text
    assert "javascript" in text
    assert "](" not in text


def test_escaped_text_is_one_line_and_plain_names_stay_readable() -> None:
    assert escaped("decoder.3 shared-experts +5.1%") == "decoder.3 shared-experts +5.1%"
    assert escaped("a|b\nc<d>") == "a&#124;b&#10;c&#60;d&#62;"


def shown(found: Comparison, width: int = 160) -> str:
    """Return what a terminal of a width shows."""
    text = StringIO()
    show_comparison(Console(file=text, width=width, force_terminal=False), found)
    return text.getvalue()


def test_the_terminal_says_what_moved_and_no_name_moves_its_cursor() -> None:
    text = shown(hostile())
    assert "decode is worse: busy +20.0%" in text
    assert "\x1b" not in text
    assert "1 rows: 0 better, 1 worse, 0 same, 0 inconclusive" in text
    assert "note: devices differ" in text


def test_rows_of_one_side_are_counted_apart_everywhere() -> None:
    both = [call(100_000, step=step) for step in range(10)]
    gone, new = (
        [call(50_000, step=step, kind=kind, layer=layer) for step in range(10) for layer in layers]
        for kind, layers in (("norm", (0,)), ("gate", (0, 1)))
    )
    found = compare(out_of([*both, *gone]), out_of([*both, *new]))
    text = "4 rows: 0 better, 0 worse, 1 same, 0 inconclusive; 1 only in A; 2 only in B"
    assert text in shown(found)
    assert text in comparison_markdown(found)
    assert text in Tags(comparison_page(found)).text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_width_shows_the_verdict(width: int) -> None:
    assert "worse" in shown(hostile(), width)


def _long(busy: float, idle: int) -> Out:
    """Return a run whose names and times are as long as those of a real one."""
    rows = [("shared_experts", 11), ("relative_attention", 23), ("rest", 0)]
    return out_of(
        [
            call(int(busy * 1_234_567), idle, step=step, kind=kind, layer=layer, stage=stage)
            for stage in ("vision", "prefill", "decode")
            for kind, layer in rows
            for step in range(1 if stage == "vision" else 10)
        ]
    )


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_names_verdicts_and_figures_are_whole_at_every_width(width: int) -> None:
    """Oracle: the same tables at 300 characters, where nothing needs to be left out."""
    found = compare(_long(1, 123_456_789), _long(1.5, 1_000))
    text, all_of_it = (re.split(r"\n\d+ rows:", shown(found, columns))[0] for columns in (width, 300))
    assert "…" not in text
    assert max(map(len, text.split("Stages, A > B")[1].splitlines())) <= width
    heads = all_of_it.split("Stages, A > B")[1].splitlines()[2:5]
    for line in heads:
        stage, verdict, _, _, a, _, b, _, _, _, _, _, busy_by, _, _, _, idle_by = line.split()
        [mine] = [one for one in text.split("Rows that moved")[0].splitlines() if one.startswith(f"{stage} ")][-1:]
        assert {stage, verdict, a, b, busy_by, idle_by} <= set(mine.split())
    rows = text.split("Rows that moved")[1].split()
    for name in ("shared_experts", "relative_attention", "decoder.23", "decode", "better", "+50.0%"):
        assert name in rows or f"{name}," in rows


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_gates_rules_verdicts_and_figures_are_whole_at_every_width(width: int) -> None:
    rules = ["decode.decoder.shared_experts.11.busy_ns<=+3%", "prefill.wall_ns<=15ms", "vision.idle_ns<=+50%"]
    found = gate(_long(1.5, 9_000_000), _long(1, 123_456_789), [parse_rule(rule) for rule in rules])
    out = StringIO()
    show_gate(Console(file=out, width=width), found)
    text = out.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines()[1:])) <= width
    for one in found.rulings:
        values = (changes.value_text(one, one.value), changes.measured_text(one), one.rule.text, str(one.outcome))
        assert all(told in text for told in values)
        assert one.baseline is None or changes.value_text(one, one.baseline) in text
        assert all(word in text for word in one.reason.split())


def test_a_headline_has_both_times_and_by_how_much_they_differ() -> None:
    eager = out_of([call(50_000, 4_000_000, step=step) for step in range(10)])
    graph = out_of([call(52_000, 0, step=step, origin="replayed") for step in range(10)])
    [stage] = compare(eager, graph).stages
    assert headline(stage) == (
        "decode is better: idle -100.0%, busy +4.0%; 4.050 > 0.052 ms a step, 77.88x faster; GPU busy 0.050 > 0.052"
    )
    [same] = compare(eager, eager).stages
    assert headline(same) == (
        "decode is the same, noise counted; 4.050 > 4.050 ms a step, as fast; GPU busy 0.050 > 0.050"
    )


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [(100, 100.4, "as fast"), (100, 200, "2.00x slower"), (200, 100, "2.00x faster"), (0, 5, "only in B"),
     (5, 0, "only in A"), (0, 0, "as fast")],
)  # fmt: skip
def test_a_speed_is_never_at_odds_with_its_times(a: float, b: float, says: str) -> None:
    assert changes.speed(Moved.exact(a, b)) == says


def test_sentence_table_and_percentage_are_one_estimate_where_a_graph_was_captured() -> None:
    """Oracle: the printed times, subtracted and divided by hand. Capture, and an odd first step, are in neither."""

    def run(idle: int) -> Out:
        ran = [call(50_000, idle + 9_000_000 * (step == 0), step=step, origin="replayed") for step in range(10)]
        return out_of([call(0, 40_000_000, origin="captured"), *ran]) if idle < 2_000_000 else out_of(ran)

    found = compare(run(2_000_000), run(1_000_000))
    told = next(line for line in shown(found).splitlines() if line.startswith("decode  "))
    times = [float(text) for text in re.findall(r"\d+\.\d{3}", told)]
    wall_a, wall_b, busy_a, busy_b, idle_a, idle_b = times
    assert (wall_a, wall_b) == (2.95, 1.95) == pytest.approx((busy_a + idle_a, busy_b + idle_b))
    assert f"{(idle_b - idle_a) / idle_a:+.1%}" == "-34.5%"
    assert told.rstrip().endswith("-34.5%")
    text = headline(found.stages[0])
    assert f"{wall_a:.3f} > {wall_b:.3f} ms a step, {wall_a / wall_b:.2f}x faster" in text
    assert text.endswith("; beside it capturing CUDA graphs, once a run and spread over its steps: +4.000")
    assert "-34.5%" in Tags(comparison_page(found)).text


def test_a_gate_is_shown_with_its_intervals() -> None:
    a, b = (out_of([call(busy, step=step) for step in range(10)]) for busy in (100_000, 110_000))
    found = gate(b, a, [parse_rule("decode.busy_ns<=+3%"), parse_rule("decode.wall_ns<=1s")])
    text = gate_markdown(found)
    assert text.startswith("### The gate does not hold")
    assert "| fail | 0.100 ms | 0.110 ms | +10.0% (+8.8% to +11.2%) |" in text
    assert "| decode | decoder.0 mlp | worse | +0.010 | busy +10.0% |" in text
    out = StringIO()
    show_gate(Console(file=out, width=160), found)
    assert "+10.0% (+8.8% to +11.2%)" in out.getvalue()
