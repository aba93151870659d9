"""From page images to what the vision tower is given: the whole page and, in gundam, tiles cut as the vendor does."""

from collections.abc import Sequence
from typing import Final

import torch
from attrs import frozen
from PIL import Image, ImageOps

from dsocr_nvtx.analytic.page import MODE_SIDES, NO_TILES, PIXELS_PER_TOKEN, TILE_SIDE, Grid, page_grid, views
from dsocr_nvtx.errors import UsageError

PAD_COLOUR: Final = (127, 127, 127)
"""The mean of the normalisation, so that padding becomes (almost) zero."""

SQUEEZED_MODES: Final = ("tiny", "small")
"""Here the vendor resizes to a square and lets the aspect ratio go; elsewhere the page is padded."""


@frozen(kw_only=True)
class PageViews:
    """The images of a batch of pages, as `get_image_features` takes them.

    ``pixel_values`` [B, 3, s, s]; ``pixel_values_local`` [all tiles, 3, t, t], page after page, rows of tiles from the
    top, or None. ``grids`` says each page's (columns, rows), (1, 1) for no tiles.
    """

    pixel_values: torch.Tensor
    pixel_values_local: torch.Tensor | None
    grids: tuple[Grid, ...]

    @property
    def batch(self) -> int:
        """Pages in the batch."""
        return len(self.grids)

    @property
    def num_local_patches(self) -> list[int]:
        """Tiles of each page; 0 where it has none."""
        return [0 if grid == NO_TILES else grid[0] * grid[1] for grid in self.grids]

    def model_inputs(self) -> dict[str, object]:
        """Return the keyword arguments of the model's `get_image_features`."""
        return {
            "pixel_values": self.pixel_values,
            "pixel_values_local": self.pixel_values_local,
            "num_local_patches": self.num_local_patches,
            "patches_grid": [list(grid) for grid in self.grids],
        }

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "PageViews":
        """Return the same views on a device, as numbers of one type."""
        tiles = self.pixel_values_local
        return PageViews(
            pixel_values=self.pixel_values.to(device, dtype),
            pixel_values_local=None if tiles is None else tiles.to(device, dtype),
            grids=self.grids,
        )

    def repeated(self, copies: int) -> "PageViews":
        """Return the views of a batch that holds these pages ``copies`` times over."""
        tiles = self.pixel_values_local
        return PageViews(
            pixel_values=self.pixel_values.repeat(copies, 1, 1, 1),
            pixel_values_local=None if tiles is None else tiles.repeat(copies, 1, 1, 1),
            grids=self.grids * copies,
        )

    def image_tokens(self) -> list[int]:
        """Return, for each page, the prompt tokens that its images become, by the tensors' sides."""
        whole = self.pixel_values.shape[-1] // PIXELS_PER_TOKEN
        tile = 0 if self.pixel_values_local is None else self.pixel_values_local.shape[-1] // PIXELS_PER_TOKEN
        tiled = [0 if grid == NO_TILES else grid[1] * tile * (grid[0] * tile + 1) for grid in self.grids]
        return [whole * (whole + 1) + 1 + count for count in tiled]


def page_views(
    images: Sequence[Image.Image], mode: str = "gundam", tiles: Grid | None = None, base_side: int = MODE_SIDES["base"]
) -> PageViews:
    """Return the views of pages in a mode, on the CPU in float32, values from -1 to 1.

    ``tiles`` forces gundam's grid. ``base_side`` is the side of the network's base mode: a network made for smaller
    images gets every side of the mode in proportion, while the grid is still that of the page's own size.
    """
    grids = tuple(grid_of(mode, image, tiles) for image in images)
    scale = base_side / MODE_SIDES["base"]
    whole = torch.stack([_tensor(_whole(image, mode, _side(MODE_SIDES[mode], scale))) for image in images])
    side = _side(TILE_SIDE, scale)
    cut = [_tensor(tile) for image, grid in zip(images, grids, strict=True) for tile in _tiles(image, grid, side)]
    return PageViews(pixel_values=whole, pixel_values_local=torch.stack(cut) if cut else None, grids=grids)


def grid_of(mode: str, image: Image.Image, tiles: Grid | None = None) -> Grid:
    """Return the tiles of a page in a mode, (columns, rows); ``tiles`` forces gundam's."""
    if tiles is None:
        return page_grid(mode, image.width, image.height)
    views(mode, tiles)  # refuses a mode or grid that does not exist
    return tiles


def _side(pixels: int, scale: float) -> int:
    side = round(pixels * scale)
    if side < PIXELS_PER_TOKEN or side % PIXELS_PER_TOKEN:
        raise UsageError(f"a side of {side} pixels is no multiple of {PIXELS_PER_TOKEN}: choose another mode")
    return side


def _whole(image: Image.Image, mode: str, side: int) -> Image.Image:
    if mode in SQUEEZED_MODES:
        return image.resize((side, side), Image.Resampling.BICUBIC)
    return ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, color=PAD_COLOUR)


def _tiles(image: Image.Image, grid: Grid, side: int) -> list[Image.Image]:
    if grid == NO_TILES:
        return []
    columns, rows = grid
    resized = image.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    corners = [(column * side, row * side) for row in range(rows) for column in range(columns)]
    return [resized.crop((x, y, x + side, y + side)) for x, y in corners]


def _tensor(image: Image.Image) -> torch.Tensor:
    """Return [3, height, width]: bytes scaled to 0..1, then by the mean and deviation of 0.5."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return (pixels.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
