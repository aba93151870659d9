"""Page images: what is read, what is refused and how, and the page that the package draws."""

import os
from pathlib import Path

import pytest
from PIL import Image

from dsocr_nvtx.analytic.page import tile_grid
from dsocr_nvtx.errors import Refused, Unavailable
from dsocr_nvtx.run import pages
from dsocr_nvtx.run.capture import RunOptions, capture
from dsocr_nvtx.run.drawing import draw_page
from dsocr_nvtx.run.pages import drawn_page, load_page


def test_drawn_page_looks_like_print() -> None:
    page = drawn_page()
    histogram = page.image.convert("L").histogram()
    dark, light = sum(histogram[:100]), sum(histogram[250:])
    total = page.image.width * page.image.height
    assert 0.02 < dark / total < 0.3
    assert light / total > 0.6


def test_drawn_page_has_the_aspect_of_two_by_three_tiles() -> None:
    assert tile_grid(*drawn_page().image.size) == (2, 3)


def test_drawn_page_follows_its_seed() -> None:
    first, again, other = draw_page(300, 400, 1), draw_page(300, 400, 1), draw_page(300, 400, 2)
    assert first.tobytes() == again.tobytes() != other.tobytes()


@pytest.mark.parametrize("size", [(64, 64), (2000, 200), (50, 900)])
def test_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    assert draw_page(*size).size == size


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_rasters_load_as_rgb(tmp_path: Path, suffix: str) -> None:
    Image.new("L", (40, 60), 128).save(tmp_path / f"a.{suffix}")
    page = load_page(str(tmp_path / f"a.{suffix}"))
    assert (page.image.mode, page.image.size) == ("RGB", (40, 60))


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (40, 60)).save(tmp_path / "a.jpg", exif=exif)
    assert load_page(str(tmp_path / "a.jpg")).image.size == (60, 40)


def test_a_name_may_contain_a_number_sign(tmp_path: Path) -> None:
    Image.new("RGB", (40, 60)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "scan#2")
    assert load_page(str(tmp_path / "scan#2")).image.size == (40, 60)


def _pdf(path: Path, count: int) -> None:
    sheets = [Image.new("RGB", (200 + 100 * index, 400), "white") for index in range(count)]
    sheets[0].save(path, save_all=True, append_images=sheets[1:], resolution=72)


def test_a_pdf_gives_the_page_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    _pdf(tmp_path / "a.pdf", 2)
    assert load_page(str(tmp_path / "a.pdf")).image.size == (400, 800)
    assert load_page(f"{tmp_path / 'a.pdf'}#2").image.size == (600, 800)


def test_a_pdf_of_several_pages_without_a_number_says_which_page_it_is(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    _pdf(tmp_path / "one.pdf", 1)
    _pdf(tmp_path / "three.pdf", 3)
    source = str(tmp_path / "three.pdf")
    assert load_page(source).note == f"{source}: page 1 of 3; name {source}#2 for others"
    assert [load_page(str(tmp_path / name)).note for name in ("one.pdf", "three.pdf#1", "three.pdf#2")] == ["", "", ""]
    with pytest.raises(Refused, match="none is number 0"):
        load_page(f"{source}#0")


@pytest.mark.parametrize("more", [(), ("three.pdf#2",)])
def test_a_run_says_on_stderr_which_page_of_a_pdf_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    pytest.importorskip("pypdfium2")
    monkeypatch.chdir(tmp_path)
    _pdf(tmp_path / "three.pdf", 3)
    capture(
        RunOptions(
            device="cpu", config="tiny", mode="tiny", max_new_tokens=2, hooks=False, warmup=0,
            pages=("three.pdf", *more), out=tmp_path / "run",
        )
    )  # fmt: skip
    said = capsys.readouterr().err.splitlines()
    assert said.count("three.pdf: page 1 of 3; name three.pdf#2 for others") == 1


def test_a_pdf_page_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    _pdf(tmp_path / "a.pdf", 2)
    with pytest.raises(Refused, match="2 pages, of which none is number 3"):
        load_page(f"{tmp_path / 'a.pdf'}#3")


def test_a_broken_pdf_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7\nnothing")
    with pytest.raises(Refused, match="not a readable PDF"):
        load_page(str(tmp_path / "a.pdf"))


def test_a_page_that_pdfium_cannot_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hollow.pdf"
    path.write_bytes(
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count 1/Kids[9 0 R]>>endobj\n"
        b"trailer<</Root 1 0 R/Size 3>>\n%%EOF\n"
    )
    with pytest.raises(Refused, match=r"hollow\.pdf: "):
        load_page(str(path))


def test_a_pipe_or_a_device_is_no_page(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "page.png")
    for path in (tmp_path / "page.png", Path("/dev/zero")):
        with pytest.raises(Refused, match="a pipe or a device"):
            load_page(str(path))


def test_without_pypdfium2_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypdfium2", None)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7\n")
    with pytest.raises(Unavailable, match="pip install pypdfium2"):
        load_page(str(tmp_path / "a.pdf"))


def test_files_that_are_no_images_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    draw_page(300, 400).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-2000])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.gif")
    for name in ("cut.png", "text.png", "empty.png", "a.gif", "missing.png", "."):
        with pytest.raises(Refused, match="give a PNG, JPEG or PDF file") as caught:
            load_page(str(tmp_path / name))
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)


def test_an_absurd_size_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_PIXELS", 1000)
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    with pytest.raises(Refused, match="100 x 100 pixels"):
        load_page(str(tmp_path / "a.png"))


@pytest.mark.parametrize("size", [(4, 4), (8, 4000)])
def test_slivers_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(Refused, match=f"{size[0]} x {size[1]} pixels"):
        load_page(str(tmp_path / "a.png"))
