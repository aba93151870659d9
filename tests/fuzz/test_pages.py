"""Damaged page images and PDFs: each is a page, or refused in one line."""

import io
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("pypdfium2")

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.run.drawing import draw_page
from dsocr_nvtx.run.pages import load_page
from tests.fuzz.mutations import damage

CASES = 60


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PDF"])
def test_a_damaged_page_is_read_or_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    written = io.BytesIO()
    draw_page(60, 80, 1).save(written, kind)
    path = tmp_path / f"page.{kind.lower()}"
    for seed in range(CASES):
        data = bytearray(written.getvalue())
        what = damage(Random(f"{kind} {seed}"), data)
        path.write_bytes(data)
        try:
            said = load_page(str(path)).name
        except Refused as refused:
            said = str(refused)
        assert said.startswith(str(path)), what
