"""Makes the review pages of the committed captures, and README's picture, with the code as it is.

    python reports/pages.py

Roofs are those of `h200/ceilings.arrow`, measured on a card of the same kind.
"""

import tempfile
from pathlib import Path

from verdicts import CAPTURES, HERE, ROOFS

from dsocr_nvtx.report.opened import open_joined
from dsocr_nvtx.report.page import review_page, roofline_picture
from dsocr_nvtx.roofline.joined import joined_report, write_tables

NAMES = dict(zip(("eager", "graph"), CAPTURES.items(), strict=True))


def main() -> None:
    """Join each capture and write its page; the picture is that of the eager page."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (about, capture) in NAMES.items():
            joined = Path(folder) / f"{name}.dsocr"
            write_tables(joined, joined_report(capture, ceilings=ROOFS["reports/h200/ceilings.arrow"]), force=False)
            opened = open_joined(joined)
            title = f"DeepSeek-OCR on an H200: {about.split(': ')[-1]}"
            (HERE / "h200" / f"review-{name}.html").write_text(review_page(opened, title), encoding="utf-8")
            if name == "eager":
                picture = roofline_picture(opened, "DeepSeek-OCR, one page of 2x3 tiles, eager, one NVIDIA H200")
                (HERE / "h200" / "roofline.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
