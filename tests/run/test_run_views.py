"""Preprocessing: the shapes, values and token counts of every mode."""

import pytest
import torch
from PIL import Image

from dsocr_nvtx.analytic.page import MODE_SIDES, image_tokens
from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.run.views import page_views

PAGE = Image.new("RGB", (1240, 1754), "white")


@pytest.mark.parametrize("mode", MODE_SIDES)
def test_true_modes_have_the_tokens_that_the_analytic_model_counts(mode: str) -> None:
    views = page_views([PAGE], mode)
    assert views.image_tokens() == [image_tokens(mode, views.grids[0])]
    assert views.pixel_values.shape == (1, 3, MODE_SIDES[mode], MODE_SIDES[mode])


def test_an_a4_page_in_gundam_is_nine_hundred_and_three_tokens() -> None:
    views = page_views([PAGE], "gundam")
    assert views.grids == ((2, 3),)
    assert views.pixel_values_local is not None
    assert views.pixel_values_local.shape == (6, 3, 640, 640)
    assert views.image_tokens() == [903]


def test_a_small_image_in_gundam_has_no_tiles() -> None:
    views = page_views([Image.new("RGB", (640, 300))], "gundam")
    assert views.pixel_values_local is None
    assert (views.num_local_patches, views.grids) == ([0], ((1, 1),))


def test_a_forced_grid_is_obeyed() -> None:
    views = page_views([PAGE], "gundam", (3, 1))
    assert (views.grids, views.num_local_patches) == (((3, 1),), [3])


def test_a_grid_is_only_for_gundam() -> None:
    with pytest.raises(UsageError, match="only gundam"):
        page_views([PAGE], "base", (2, 3))


def test_a_smaller_network_gets_every_side_in_proportion() -> None:
    views = page_views([PAGE], "gundam", base_side=512)
    assert views.pixel_values_local is not None
    assert (views.pixel_values.shape[-1], views.pixel_values_local.shape[-1]) == (512, 320)
    assert views.image_tokens() == [8 * 9 + 1 + 15 * 11]


def test_values_run_from_minus_one_to_one_and_padding_is_nearly_zero() -> None:
    image = Image.new("RGB", (100, 200), "white")
    image.paste("black", (0, 0, 100, 100))
    pixels = page_views([image], "base").pixel_values
    assert (pixels.min().item(), pixels.max().item()) == (-1.0, 1.0)
    assert pixels[0, :, 500, 0].abs().max() < 0.005
    # The page stands upright in the middle: black above, white below.
    assert pixels[0, 0, 100, 512] == -1.0
    assert pixels[0, 0, 900, 512] == 1.0


def test_small_modes_squeeze_the_page_instead_of_padding() -> None:
    pixels = page_views([Image.new("RGB", (100, 200), "white")], "tiny").pixel_values
    assert pixels.min() == 1.0


def test_tiles_go_row_by_row() -> None:
    image = Image.new("RGB", (1280, 1280))
    for index, grey in enumerate((0, 80, 160, 240)):
        x, y = index % 2 * 640, index // 2 * 640
        image.paste((grey, grey, grey), (x, y, x + 640, y + 640))
    tiles = page_views([image], "gundam", (2, 2)).pixel_values_local
    assert tiles is not None
    greys = ((tiles[:, 0, 320, 320] + 1) * 127.5).round().int().tolist()
    assert greys == [0, 80, 160, 240]


def test_a_repeated_page_is_the_same_page_again() -> None:
    once = page_views([PAGE], "gundam", base_side=512)
    twice, both = once.repeated(2), page_views([PAGE, PAGE], "gundam", base_side=512)
    assert twice.pixel_values_local is not None
    assert both.pixel_values_local is not None
    assert torch.equal(twice.pixel_values, both.pixel_values)
    assert torch.equal(twice.pixel_values_local, both.pixel_values_local)
    assert (twice.grids, twice.num_local_patches) == (both.grids, [6, 6])
