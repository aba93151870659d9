"""SAM's image encoder: patches, windowed and global attention with relative positions, and the neck that shrinks it.

Shapes: ``batch`` images; ``height`` x ``width`` in pixels for the encoder and its patch embedding, in patches inside.
"""

from attrs import evolve, frozen

from dsocr_nvtx.analytic import ops
from dsocr_nvtx.analytic.layer import Child, Layer, grid_rows
from dsocr_nvtx.analytic.mlp import VisionMLP
from dsocr_nvtx.analytic.norms import LayerNorm
from dsocr_nvtx.analytic.ops import VECTOR_FLOPS
from dsocr_nvtx.analytic.sam_attention import SamAttention
from dsocr_nvtx.schema.records import CallShape, Cost, LayerKind


@frozen(kw_only=True)
class PatchEmbed(Layer):
    """The convolution that turns ``patch`` x ``patch`` pixels into one row."""

    channels: int
    patch: int
    width: int
    kind = LayerKind.PATCH_EMBED

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of embedding every patch; height and width are pixels."""
        patches, pixels, size = self.patches(shape), grid_rows(shape), shape.itemsize
        flops = ops.conv2d_flops(patches, self.channels, self.width, self.patch)
        ends = (pixels * self.channels + patches * self.width) * size
        return Cost(
            tensor_flops=flops,
            tensor_flops_unmasked=flops,
            vector_flops=patches * self.width,
            weight_bytes=self.weights(size),
            activation_bytes=ends,
            op_bytes=ends + self.weights(size),
        )

    def own_parameters(self) -> int:
        """Return kernel and bias."""
        return self.patch**2 * self.channels * self.width + self.width

    def patches(self, shape: CallShape) -> int:
        """Return the rows that the call makes."""
        return shape.batch * (shape.height // self.patch) * (shape.width // self.patch)


@frozen(kw_only=True)
class SamBlock(Layer):
    """One SAM layer. With a window the rows are cut into windows, padded at the edges, and put together again."""

    norm1: LayerNorm
    attention: SamAttention
    norm2: LayerNorm
    mlp: VisionMLP

    def children(self, shape: CallShape) -> tuple[Child, ...]:
        """Return norm, attention, norm, feed-forward."""
        return (
            Child(name="norm1", description=self.norm1, shape=shape),
            Child(name="attention", description=self.attention, shape=self.attention.windows(shape)),
            Child(name="norm2", description=self.norm2, shape=shape),
            Child(name="mlp", description=self.mlp, shape=shape),
        )

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of two residual additions and of cutting and joining windows."""
        rows, size, width = grid_rows(shape), shape.itemsize, self.norm1.width
        moved, least = self._window_rows(shape)
        return Cost(
            vector_flops=2 * VECTOR_FLOPS["add"] * rows * width,
            activation_bytes=(6 * rows + least) * width * size,
            op_bytes=(6 * rows + moved) * width * size,
        )

    def io_bytes(self, shape: CallShape) -> int:
        """Return the hidden state, read and written."""
        return 2 * grid_rows(shape) * self.norm1.width * shape.itemsize

    def scratch_bytes(self, shape: CallShape) -> int:
        """Return the residual beside what the block works on."""
        return grid_rows(shape) * self.norm1.width * shape.itemsize

    def _window_rows(self, shape: CallShape) -> tuple[int, int]:
        """Return the rows moved to cut and join windows, operator by operator and at least.

        Padding copies even where there is nothing to pad; with one column of windows the permutation moves nothing;
        cutting the padding off copies only if there was any.
        """
        if not self.attention.window:
            return 0, 0
        rows, padded = grid_rows(shape), grid_rows(self.attention.windows(shape))
        several = shape.width > self.attention.window
        moved = rows + padded + (4 * padded if several else 0) + (2 * rows if padded != rows else 0)
        return moved, 2 * (rows + padded)


@frozen(kw_only=True)
class SamNeck(Layer):
    """The 1x1 and 3x3 convolutions after the blocks, each followed by a norm over channels."""

    width: int
    channels: int
    kind = LayerKind.NECK

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost over the patch grid."""
        rows, size = grid_rows(shape), shape.itemsize
        flops = ops.conv2d_flops(rows, self.width, self.channels, 1)
        flops += ops.conv2d_flops(rows, self.channels, self.channels, 3)
        moved = ops.conv2d_elements(rows, rows, self.width, self.channels, 1)
        moved += ops.conv2d_elements(rows, rows, self.channels, self.channels, 3)
        return Cost(
            tensor_flops=flops,
            tensor_flops_unmasked=flops,
            vector_flops=2 * VECTOR_FLOPS["layer_norm"] * rows * self.channels,
            weight_bytes=self.weights(size),
            activation_bytes=rows * (self.width + self.channels) * size,
            op_bytes=moved * size + 2 * ops.layer_norm_bytes(rows, self.channels, size) + self.unlike(size),
        )

    def own_parameters(self) -> int:
        """Return both kernels and both norms."""
        return self.width * self.channels + 9 * self.channels**2 + 4 * self.channels


@frozen(kw_only=True)
class SamProj(Layer):
    """The 3x3 convolutions of stride 2 that halve the grid, one after the other, to ``steps`` channels."""

    channels: int
    steps: tuple[int, ...]
    kind = LayerKind.NECK

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost from the patch grid down."""
        flops = moved = 0
        height, width, channels = shape.height, shape.width, self.channels
        for wider in self.steps:
            before, height, width = height * width, halved(height), halved(width)
            after = height * width
            flops += ops.conv2d_flops(shape.batch * after, channels, wider, 3)
            moved += ops.conv2d_elements(shape.batch * before, shape.batch * after, channels, wider, 3)
            channels = wider
        ends = shape.batch * (shape.height * shape.width * self.channels + height * width * channels)
        return Cost(
            tensor_flops=flops,
            tensor_flops_unmasked=flops,
            weight_bytes=self.weights(shape.itemsize),
            activation_bytes=ends * shape.itemsize,
            op_bytes=moved * shape.itemsize + self.unlike(shape.itemsize),
        )

    def own_parameters(self) -> int:
        """Return the kernels."""
        return sum(9 * narrow * wide for narrow, wide in zip((self.channels, *self.steps), self.steps, strict=False))

    def grid(self, shape: CallShape) -> tuple[int, int]:
        """Return height and width of the result."""
        height, width = shape.height, shape.width
        for _ in self.steps:
            height, width = halved(height), halved(width)
        return height, width


@frozen(kw_only=True)
class ImageEncoderViT(Layer):
    """The whole encoder: pixels in, a grid a sixteenth of the patches' out. ``position_grid`` is 0 without a table.

    ``net_2`` and ``net_3`` are the steps of ``proj`` where a layout calls them one by one, as the vendor's does.
    """

    patch_embed: PatchEmbed
    position_grid: int
    blocks: tuple[SamBlock, ...]
    neck: SamNeck
    proj: SamProj
    net_2: SamProj | None = None
    net_3: SamProj | None = None

    def children(self, shape: CallShape) -> tuple[Child, ...]:
        """Return patch embedding, blocks, neck and proj."""
        inside = self.patches(shape)
        blocks = (
            Child(name=str(index), description=block, shape=inside, layer=index)
            for index, block in enumerate(self.blocks)
        )
        return (
            Child(name="patch_embed", description=self.patch_embed, shape=shape),
            *blocks,
            Child(name="neck", description=self.neck, shape=inside),
            *self._halvings(inside),
        )

    def _halvings(self, shape: CallShape) -> tuple[Child, ...]:
        if self.net_2 is None or self.net_3 is None:
            return (Child(name="proj", description=self.proj, shape=shape),)
        height, width = self.net_2.grid(shape)
        halved_once = evolve(shape, height=height, width=width, tokens=height * width)
        return (
            Child(name="net_2", description=self.net_2, shape=shape),
            Child(name="net_3", description=self.net_3, shape=halved_once),
        )

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of adding positions, resized from the table where the image has another size."""
        if not self.position_grid:
            return Cost()
        inside, size, width = self.patches(shape), shape.itemsize, self.patch_embed.width
        grid, rows, table = inside.height * inside.width, grid_rows(inside), self.own_parameters()
        same = inside.height == inside.width == self.position_grid
        taps = 0 if same else VECTOR_FLOPS["bicubic_interpolation"] * grid * width
        resizing = 0 if same else ops.bicubic_bytes(table, grid * width, size)
        return Cost(
            vector_flops=VECTOR_FLOPS["add"] * rows * width + taps,
            weight_bytes=self.weights(size),
            activation_bytes=2 * rows * width * size,
            op_bytes=resizing + (2 * rows + grid) * width * size,
        )

    def own_parameters(self) -> int:
        """Return the position table."""
        return self.position_grid**2 * self.patch_embed.width

    def io_bytes(self, shape: CallShape) -> int:
        """Return the pixels and the final grid."""
        height, width = self.proj.grid(self.patches(shape))
        pixels = grid_rows(shape) * self.patch_embed.channels
        return (pixels + shape.batch * height * width * self.proj.steps[-1]) * shape.itemsize

    def patches(self, shape: CallShape) -> CallShape:
        """Return the shape inside: the grid of patches."""
        height, width = shape.height // self.patch_embed.patch, shape.width // self.patch_embed.patch
        return evolve(shape, height=height, width=width, tokens=max(height * width, 1))

    def grid(self, shape: CallShape) -> tuple[int, int]:
        """Return height and width of the result for an image of this many pixels."""
        return self.proj.grid(self.patches(shape))


def halved(side: int) -> int:
    """Return a side after a 3x3 convolution of stride 2 with one row of padding."""
    return (side + 1) // 2
