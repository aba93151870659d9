"""Page images from files: PNG and JPEG through Pillow, a page of a PDF through pypdfium2; anything else is refused."""

import errno
import os
import struct
import warnings
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from PIL import Image, ImageOps

from dsocr_nvtx.errors import Refused, Unavailable
from dsocr_nvtx.run.drawing import A4_AT_150_DPI, draw_page
from dsocr_nvtx.schema.checking import open_regular

PDF_DPI: Final = 144
"""The resolution at which the vendor's scripts render PDF pages."""

MAX_PIXELS: Final = 80_000_000
"""An A4 page at 900 dpi. More is a mistake or an attack: the largest mode keeps 1.6 million."""

MIN_SIDE: Final = 8
MAX_ASPECT: Final = 200
"""Beyond this the shorter side would round to nothing when the page is fitted into a square."""

IMAGE_FAULTS: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What Pillow raises for files that are not, or not whole, images; SyntaxError is its word for a broken PNG."""


@frozen
class Page:
    """One page: its pixels in RGB, and where they came from; ``note``: what a user should know of that, or nothing."""

    name: str
    image: Image.Image
    note: str = ""


def drawn_page(seed: int = 0) -> Page:
    """Return the page that a run without images reads."""
    width, height = A4_AT_150_DPI
    return Page(f"drawn {width}x{height}, seed {seed}", draw_page(width, height, seed))


def load_page(source: str) -> Page:
    """Return the page in a file; ``report.pdf#3`` is the third page of a PDF.

    Without a number it is the first, and the page's note says how many there are.
    """
    path, number = _split(source)
    if not path.exists():
        raise Refused(path, os.strerror(errno.ENOENT), "give a PNG, JPEG or PDF file")
    with open_regular(path, "give a PNG, JPEG or PDF file") as file:
        head = file.read(8)
    if not head:
        raise Refused(path, "an empty file", "give a PNG, JPEG or PDF file")
    if not head.startswith(b"%PDF"):
        return Page(source, _checked(path, _raster_image(path)))
    image, count = _pdf_image(path, 1 if number is None else number)
    note = f"{source}: page 1 of {count}; name {source}#2 for others" if number is None and count > 1 else ""
    return Page(source, _checked(path, image), note)


def _split(source: str) -> tuple[Path, int | None]:
    name, mark, number = source.rpartition("#")
    if mark and number.isdecimal() and not Path(source).exists():
        return Path(name), int(number)
    return Path(source), None


def _raster_image(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow only warns at one such limit and raises at twice it; ours, checked before decoding, comes first.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                _check_pixels(path, *image.size)
                turned = ImageOps.exif_transpose(image)
                return turned.convert("RGB")
    except Image.DecompressionBombError as error:  # Pillow's own limit, met before the size could be asked for
        raise _too_large(path, str(error).split(")")[0].rpartition("(")[2]) from error
    except IMAGE_FAULTS as error:
        found = f"not a whole PNG or JPEG image ({str(error).strip() or type(error).__name__})"
        raise Refused(path, found, "give a PNG, JPEG or PDF file") from error


def _pdf_image(path: Path, number: int) -> tuple[Image.Image, int]:
    """Return a page of a PDF, and how many there are."""
    try:
        import pypdfium2
    except ImportError as error:
        raise Unavailable(f"{path}: PDF pages need pypdfium2; pip install pypdfium2") from error
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        raise Refused(path, f"not a readable PDF ({error})", "give a whole PDF without a password") from error
    try:
        return _render(path, document, number), len(document)
    except (pypdfium2.PdfiumError, OSError, ValueError, MemoryError) as error:
        raise Refused(path, f"its page {number} cannot be drawn ({error})", "give a whole PDF") from error
    finally:
        document.close()


def _render(path: Path, document: Any, number: int) -> Image.Image:
    count = len(document)
    if not 1 <= number <= count:
        raise Refused(path, f"{count} pages, of which none is number {number}", f"ask for {path}#1 to {path}#{count}")
    page = document[number - 1]
    scale = PDF_DPI / 72
    width, height = page.get_size()
    _check_pixels(path, int(width * scale), int(height * scale))
    image: Image.Image = page.render(scale=scale).to_pil().convert("RGB")
    return image


def _check_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width} x {height} pixels")


def _too_large(path: Path, size: str) -> Refused:
    return Refused(path, f"an image of {size}", f"scale it down to at most {MAX_PIXELS // 1_000_000} million pixels")


def _checked(path: Path, image: Image.Image) -> Image.Image:
    short, long = sorted(image.size)
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        found = f"an image of {image.width} x {image.height} pixels"
        raise Refused(path, found, f"give a page of at least {MIN_SIDE} pixels and no more than {MAX_ASPECT} : 1")
    return image
