"""The arithmetic of a page: which images the vision tower sees, and how many tokens of the prompt they become.

A page in one of the square modes is one image, padded to the mode's side. In gundam it is that global view at 1024
plus a grid of 640-pixel tiles, ``(columns, rows)``; ``(1, 1)`` stands for no tiles, as it does in the vendor's code.
"""

from typing import Final

from attrs import frozen

from dsocr_nvtx.errors import UsageError

Grid = tuple[int, int]

NO_TILES: Final[Grid] = (1, 1)
TILE_SIDE: Final = 640
MODE_SIDES: Final[dict[str, int]] = {"tiny": 512, "small": 640, "base": 1024, "large": 1280, "gundam": 1024}
"""Side of the global view in pixels, by mode."""

PIXELS_PER_TOKEN: Final = 64
"""SAM's patches are 16 pixels wide and its neck halves the grid twice."""


@frozen(kw_only=True)
class View:
    """One call of the vision tower: ``batch`` square images of ``side`` pixels, the whole page or its tiles."""

    name: str
    batch: int
    side: int

    @property
    def grid(self) -> int:
        """Tokens along one side of each image."""
        return self.side // PIXELS_PER_TOKEN

    @property
    def tokens(self) -> int:
        """Vision tokens that the call returns."""
        return self.batch * self.grid**2


def views(mode: str, grid: Grid = NO_TILES, pages: int = 1) -> tuple[View, ...]:
    """Return the vision calls of ``pages`` equal pages in the order in which the native model makes them.

    The vendor's code makes the same calls, tiles first.
    """
    columns, rows = _checked(mode, grid)
    whole = View(name="global", batch=pages, side=MODE_SIDES[mode])
    if (columns, rows) == NO_TILES:
        return (whole,)
    return whole, View(name="local", batch=pages * columns * rows, side=TILE_SIDE)


def image_tokens(mode: str, grid: Grid = NO_TILES) -> int:
    """Return the prompt tokens that stand for one page: every row ends in a newline token, one separator closes all."""
    columns, rows = _checked(mode, grid)
    side = MODE_SIDES[mode] // PIXELS_PER_TOKEN
    whole = side * (side + 1) + 1
    if (columns, rows) == NO_TILES:
        return whole
    tile = TILE_SIDE // PIXELS_PER_TOKEN
    return whole + rows * tile * (columns * tile + 1)


MOST_TILES = 9
"""Tiles that the vendor's code cuts a page into at most."""


def tile_grid(width: int, height: int, max_tiles: int = MOST_TILES) -> Grid:
    """Return ``(columns, rows)`` of the tiles that gundam cuts an image of this size into, as the vendor's code does.

    An image that fits into one tile has none. Else the grid of 2 to ``max_tiles`` tiles whose aspect ratio is nearest;
    of equally near ones the larger, if the image has more than half its pixels.
    """
    if width < 1 or height < 1 or max_tiles < 2:
        raise UsageError(f"no tile grid for {width} x {height} pixels with at most {max_tiles} tiles")
    if width <= TILE_SIDE and height <= TILE_SIDE:
        return NO_TILES
    best, best_distance = NO_TILES, float("inf")
    for columns, rows in _grids(max_tiles):
        distance = abs(width / height - columns / rows)
        tied = distance == best_distance and 2 * width * height > TILE_SIDE**2 * columns * rows
        if distance < best_distance or tied:
            best, best_distance = (columns, rows), distance
    return best


def page_grid(mode: str, width: int, height: int, max_tiles: int = MOST_TILES) -> Grid:
    """Return the tile grid of an image in any mode: only gundam has tiles."""
    _checked(mode, NO_TILES)
    return tile_grid(width, height, max_tiles) if mode == "gundam" else NO_TILES


def _grids(max_tiles: int) -> list[Grid]:
    """Return every grid of 2 to ``max_tiles`` tiles, fewest tiles first: the order decides ties."""
    sides = range(1, max_tiles + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if 2 <= columns * rows <= max_tiles]
    return sorted(grids, key=lambda grid: grid[0] * grid[1])


def _checked(mode: str, grid: Grid) -> Grid:
    """Return the grid if the mode exists and can have it."""
    if mode not in MODE_SIDES:
        raise UsageError(f"no mode {mode!r}; there are {', '.join(MODE_SIDES)}")
    columns, rows = grid
    if columns < 1 or rows < 1:
        raise UsageError(f"a tile grid has at least one column and one row, not {columns}x{rows}")
    if mode != "gundam" and grid != NO_TILES:
        raise UsageError(f"only gundam cuts a page into tiles: {columns}x{rows} does not go with {mode}")
    return columns, rows
