"""The review page in headless Chromium: hover, click, filter, sort, keyboard, dark, print; no error, no request."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from dsocr_nvtx.report.opened import open_joined
from dsocr_nvtx.report.page import review_page
from dsocr_nvtx.schema.files import read_table

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Opens = Callable[[Path], "Page"]


@pytest.fixture
def opens(browser: "Browser", written: Callable[[str], Path]) -> Iterator[Opens]:
    """Return what opens the page of a join; afterwards nothing may have been asked for or complained about."""
    heard: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})

    def open_page(out: Path) -> "Page":
        path = written(review_page(open_joined(out)))
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: None if request.url == path.as_uri() else heard.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    context.close()
    assert not heard


def _shown(page: "Page") -> int:
    return int(page.locator("#table tbody tr:visible").count())


def test_hovering_a_mark_shows_its_figures(opens: Opens, demo_out: Path) -> None:
    page = opens(demo_out)
    mark = page.locator("#plot .points a").first
    mark.locator("path").dispatch_event("mouseover")
    tip = page.locator("#tip")
    assert tip.is_visible()
    every = read_table(demo_out / "roofline.arrow").to_pylist()
    wall = sum(every[int(row)]["wall_ns"] for row in (mark.get_attribute("data-rows") or "").split())
    assert f"wall {wall / 1e6:,.2f} ms" in tip.inner_text()
    mark.locator("path").dispatch_event("mouseout")
    assert tip.is_hidden()


def test_clicking_a_mark_opens_its_rows_and_kernels(opens: Opens, demo_out: Path) -> None:
    page = opens(demo_out)
    mark = page.locator("#plot .points a").first
    before = _shown(page)
    mark.dispatch_event("click")
    assert page.locator("#chosen").is_visible()
    row = read_table(demo_out / "roofline.arrow").to_pylist()[int((mark.get_attribute("data-rows") or "").split()[0])]
    assert page.locator("#h-chosen").inner_text().startswith(f"{row['stage']} {row['module']}")
    assert page.locator("#kernels tbody tr").count() > 0
    assert 0 < _shown(page) < before
    page.locator("#clear").click()
    assert _shown(page) == before
    assert page.locator("#chosen").is_hidden()


def test_filters_reach_chart_and_table_alike_and_the_sum_is_theirs(opens: Opens, demo_out: Path) -> None:
    page = opens(demo_out)
    rows = read_table(demo_out / "roofline.arrow").to_pylist()
    page.locator("input[data-stage=vision]").uncheck()
    page.locator("#search").fill("experts")
    mine = [row for row in rows if row["stage"] != "vision" and "experts" in f"{row['module']} {row['kind']}"]
    assert _shown(page) == len(mine)
    assert int(page.locator("#count").get_attribute("data-wall-ns") or "") == sum(row["wall_ns"] for row in mine)
    drawn = page.locator("#plot .points a:not(.off)")
    numbers = drawn.evaluate_all("all => all.flatMap(a => a.dataset.rows.split(' '))")
    assert {rows[int(number)]["kind"] for number in numbers} == {"experts", "shared_experts"}
    page.locator("input[data-bound=host]").uncheck()
    assert _shown(page) == sum(row["bound"] != "host" for row in mine)


def test_headings_sort_both_ways(opens: Opens, demo_out: Path) -> None:
    page = opens(demo_out)
    cells = "rows => rows.map(row => Number(row.cells[6].textContent.replaceAll(',', '')))"
    heading = page.locator("#table button[data-column='6']")
    for expected in ("descending", "ascending"):
        heading.click()
        assert heading.locator("xpath=..").get_attribute("aria-sort") == expected
        values = page.locator("#table tbody tr").evaluate_all(cells)
        assert values == sorted(values, reverse=expected == "descending")
    assert values[0] < values[-1]


def test_the_keyboard_reaches_everything(opens: Opens, demo_out: Path) -> None:
    page = opens(demo_out)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    first = page.locator("#plot .points a").first
    first.focus()
    assert page.locator("#tip").is_visible()
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.dataset.rows")
    assert second != first.get_attribute("data-rows")
    assert page.locator("#plot .points a[tabindex='0']").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("Enter")
    assert page.locator("#chosen").is_visible()
    assert page.evaluate("document.activeElement.id") == "chosen"
    cell = page.locator(".heat button:visible").first
    cell.focus()
    page.keyboard.press("Enter")
    assert _shown(page) == len((cell.get_attribute("data-rows") or "").split())


def test_a_run_of_512_tokens_is_drawn_whole(opens: Opens, long_out: Path) -> None:
    page = opens(long_out)
    (step,) = page.locator("#steps figcaption").all()
    assert step.inner_text().startswith("decode: 512 steps, 3 averaged to a bar.")
    assert page.locator("svg.steps g").count() == 171  # 512 / 3, the last bar of two
    total = sum(read_table(long_out / "stages.arrow")["wall_ns"].to_pylist())
    assert int(page.locator("#count").get_attribute("data-wall-ns") or "") == total
    page.locator("#plot .points a").first.dispatch_event("click")
    assert page.locator("#kernels tbody tr").count() > 0


def test_light_and_dark(opens: Opens, demo_out: Path) -> None:
    page = opens(demo_out)
    paper = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(paper)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(paper) != light
    page.locator("#theme").click()
    assert page.evaluate(paper) == light


def test_print_leaves_out_what_paper_cannot_do(opens: Opens, demo_out: Path) -> None:
    page = opens(demo_out)
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.locator(".filters").is_hidden()
    assert page.locator("#verdict").is_visible()
    assert page.pdf()[:5] == b"%PDF-"


def test_hostile_names_run_nothing_and_are_read_as_text(opens: Opens, hostile_out: Path) -> None:
    page = opens(hostile_out)
    assert page.evaluate("window.broken") is None
    for button in page.locator("#table .open").all()[:12]:
        button.click()
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.images.length") == 0
    assert "<script>window.broken" in page.locator("h1").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(opens: Opens, demo_out: Path, scheme: Literal["light", "dark"]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = opens(demo_out)
    page.emulate_media(color_scheme=scheme)
    page.locator("#plot .points a").first.dispatch_event("click")
    found = axe.Axe().run(page).response["violations"]
    grave = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
    assert not grave


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_wider_than_the_window(opens: Opens, demo_out: Path, width: int) -> None:
    page = opens(demo_out)
    page.set_viewport_size({"width": width, "height": 900})
    for details in page.locator("main > section > details").all():
        details.locator("summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_bytes_that_are_moved_are_drawn_when_asked_for(opens: Opens, demo_out: Path) -> None:
    page = opens(demo_out)
    circle = page.locator("#plot circle.moved").first
    assert circle.is_hidden()
    page.locator("#moved").check()
    assert circle.is_visible()
    page.locator("#clear").click()
    assert circle.is_visible(), "it is no filter"


def test_a_row_opens_where_it_is_and_nothing_jumps(opens: Opens, demo_out: Path) -> None:
    page = opens(demo_out)
    button = page.locator("#table .open").nth(5)
    button.scroll_into_view_if_needed()
    before = (page.evaluate("scrollY"), button.bounding_box())
    button.click()
    assert (page.evaluate("scrollY"), button.bounding_box()) == before
    assert page.locator("#table td.detail #chosen").is_visible()
    page.locator("#plot .points a").first.dispatch_event("click")
    assert page.locator("#roofline #chosen").is_visible(), "a mark opens it under the chart"


def test_a_bar_of_the_steps_tells_its_figures(opens: Opens, demo_out: Path) -> None:
    page = opens(demo_out)
    page.locator("svg.steps g").nth(13).dispatch_event("mouseover")
    told = page.locator("[data-steps]").first.inner_text()
    assert told.startswith("step 13: ")
    assert page.locator(".axes.x").first.inner_text().split("\n") == ["step 0", "step 31"]
