import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.analytic.page import View, image_tokens, page_grid, tile_grid, views
from dsocr_nvtx.errors import UsageError


@pytest.mark.parametrize(
    ("mode", "grid", "tokens"),
    [
        ("tiny", (1, 1), 73),  # 8 * 9 + 1
        ("small", (1, 1), 111),  # 10 * 11 + 1
        ("base", (1, 1), 273),  # 16 * 17 + 1
        ("large", (1, 1), 421),  # 20 * 21 + 1
        ("gundam", (1, 1), 273),
        ("gundam", (2, 1), 483),  # 273 + 10 * 21
        ("gundam", (2, 3), 903),  # 273 + 30 * 21
        ("gundam", (3, 3), 1203),  # 273 + 30 * 31
        ("gundam", (1, 9), 1263),  # 273 + 90 * 11
    ],
)
def test_image_tokens_are_those_of_the_vendors_table(mode: str, grid: tuple[int, int], tokens: int) -> None:
    assert image_tokens(mode, grid) == tokens


def test_views_are_the_page_and_then_its_tiles() -> None:
    assert views("gundam", (2, 3), pages=2) == (
        View(name="global", batch=2, side=1024),
        View(name="local", batch=12, side=640),
    )
    assert views("tiny") == (View(name="global", batch=1, side=512),)


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((1654, 2339), (2, 3)),  # A4: 0.707 is nearest to 2/3
        ((1700, 2200), (2, 3)),  # Letter: 0.773; 3/4 would need 12 tiles
        ((2339, 1654), (3, 2)),
        ((640, 640), (1, 1)),
        ((641, 640), (2, 2)),  # nearly square, and 0.41 Mpx: less than half of 3 x 3 tiles
        ((1000, 1000), (2, 2)),  # 1 Mpx is less than half of 3 x 3 tiles, 1.84 Mpx
        ((2000, 2000), (3, 3)),
        ((600, 6000), (1, 9)),
        ((6000, 600), (9, 1)),
    ],
)
def test_tiles_follow_the_pages_aspect_ratio(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert tile_grid(*size) == grid


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(2, 12))
def test_a_grid_never_exceeds_its_limit_and_mirrors_with_the_page(width: int, height: int, most: int) -> None:
    columns, rows = tile_grid(width, height, most)
    assert columns * rows <= most
    assert (columns * rows == 1) == (width <= 640 and height <= 640)


def test_only_gundam_has_tiles() -> None:
    assert page_grid("base", 3000, 3000) == (1, 1)
    with pytest.raises(UsageError, match="only gundam"):
        image_tokens("base", (2, 3))
    with pytest.raises(UsageError, match="no mode"):
        views("huge")
    with pytest.raises(UsageError, match="at least one"):
        views("gundam", (0, 2))
