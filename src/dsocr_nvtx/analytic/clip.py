"""CLIP's vision transformer, fed with SAM's feature grid instead of patches.

Shapes: ``batch`` images of ``tokens`` rows, the class token included.
"""

from attrs import frozen

from dsocr_nvtx.analytic import ops
from dsocr_nvtx.analytic.layer import Child, Layer
from dsocr_nvtx.analytic.mlp import VisionMLP
from dsocr_nvtx.analytic.norms import LayerNorm
from dsocr_nvtx.analytic.ops import VECTOR_FLOPS
from dsocr_nvtx.schema.records import CallShape, Cost, LayerKind


@frozen(kw_only=True)
class ClipEmbeddings(Layer):
    """Class token and positions; the table holds ``positions`` patches beside the class token's row."""

    width: int
    positions: int
    kind = LayerKind.EMBED

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of prepending the class token and adding positions, resized to another grid if need be."""
        patches, size, width = shape.tokens - 1, shape.itemsize, self.width
        joined = (1 + shape.batch * patches + shape.rows) * width
        added = (2 * shape.rows + shape.tokens) * width
        if patches == self.positions:
            taps, table = 0, 2 * shape.tokens * width * size + ops.INDEX_BYTES * shape.tokens
        else:
            taps = VECTOR_FLOPS["bicubic_interpolation"] * patches * width
            table = ops.bicubic_bytes(self.positions * width, patches * width, size) + 2 * shape.tokens * width * size
        return Cost(
            vector_flops=VECTOR_FLOPS["add"] * shape.rows * width + taps,
            weight_bytes=self.weights(size),
            activation_bytes=(shape.batch * patches + shape.rows) * width * size,
            op_bytes=(joined + added) * size + table,
        )

    def own_parameters(self) -> int:
        """Return the class token and the table."""
        return (self.positions + 2) * self.width


@frozen(kw_only=True)
class ClipAttention(Layer):
    """Unmasked attention among all tokens of an image, with biases on every projection."""

    width: int
    heads: int
    kind = LayerKind.ATTENTION

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of the projections, scores, softmax and weighted sum."""
        pairs = shape.rows * shape.tokens
        flops = 4 * ops.matmul_flops(shape.rows, self.width, self.width) + ops.attention_flops(pairs, self.width)
        per_pair = VECTOR_FLOPS["scale"] + VECTOR_FLOPS["softmax"]
        return Cost(
            tensor_flops=flops,
            tensor_flops_unmasked=flops,
            vector_flops=4 * shape.rows * self.width + self.heads * pairs * per_pair,
            weight_bytes=self.weights(shape.itemsize),
            activation_bytes=2 * shape.rows * self.width * shape.itemsize,
            op_bytes=self._op_bytes(shape) + self.unlike(shape.itemsize),
        )

    def own_parameters(self) -> int:
        """Return the four projections."""
        return 4 * ops.linear_parameters(self.width, self.width, True)

    def scratch_bytes(self, shape: CallShape) -> int:
        """Return queries, keys and values, and for eager attention the scores in both precisions."""
        scores = 0 if shape.attention != "eager" else 3 * self.heads * shape.rows * shape.tokens
        return (3 * shape.rows * self.width + scores) * shape.itemsize

    def _op_bytes(self, shape: CallShape) -> int:
        """Return the traffic of the dispatched operators.

        Eager attention copies queries, keys and values of several images into one batch of matrices, and the result
        back into rows; fused attention reads and writes rows as they lie.
        """
        one, size = shape.rows * self.width, shape.itemsize
        moved = 4 * ops.linear_elements(shape.rows, self.width, self.width, True)
        if shape.attention != "eager":
            return (moved + ops.fused_attention_elements(one, one)) * size
        pairs = self.heads * shape.rows * shape.tokens
        moved += 2 * one + 2 * pairs + (6 * one if shape.batch > 1 else 0)
        return moved * size + ops.eager_attention_bytes(pairs, one, one, size)


@frozen(kw_only=True)
class ClipBlock(Layer):
    """One CLIP layer."""

    norm1: LayerNorm
    attention: ClipAttention
    norm2: LayerNorm
    mlp: VisionMLP

    def children(self, shape: CallShape) -> tuple[Child, ...]:
        """Return norm, attention, norm, feed-forward."""
        return (
            Child(name="norm1", description=self.norm1, shape=shape),
            Child(name="attention", description=self.attention, shape=shape),
            Child(name="norm2", description=self.norm2, shape=shape),
            Child(name="mlp", description=self.mlp, shape=shape),
        )

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of two residual additions."""
        elements = shape.rows * self.norm1.width
        moved = 6 * elements * shape.itemsize
        return Cost(vector_flops=2 * VECTOR_FLOPS["add"] * elements, activation_bytes=moved, op_bytes=moved)

    def io_bytes(self, shape: CallShape) -> int:
        """Return the hidden state, read and written."""
        return 2 * shape.rows * self.norm1.width * shape.itemsize

    def scratch_bytes(self, shape: CallShape) -> int:
        """Return the residual beside what the block works on."""
        return shape.rows * self.norm1.width * shape.itemsize


@frozen(kw_only=True)
class VitModel(Layer):
    """The whole of CLIP: embeddings, a norm before the blocks, none after."""

    embeddings: ClipEmbeddings
    pre_norm: LayerNorm
    blocks: tuple[ClipBlock, ...]

    def children(self, shape: CallShape) -> tuple[Child, ...]:
        """Return embeddings, norm and blocks."""
        blocks = (
            Child(name=str(index), description=block, shape=shape, layer=index)
            for index, block in enumerate(self.blocks)
        )
        return (
            Child(name="embeddings", description=self.embeddings, shape=shape),
            Child(name="pre_norm", description=self.pre_norm, shape=shape),
            *blocks,
        )

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return nothing: the blocks follow each other without work in between."""
        return Cost()

    def io_bytes(self, shape: CallShape) -> int:
        """Return SAM's grid and the rows made of it."""
        width = self.pre_norm.width
        return (shape.batch * (shape.tokens - 1) + shape.rows) * width * shape.itemsize

    @property
    def width(self) -> int:
        """Width of a row."""
        return self.pre_norm.width

    def call(self, batch: int, patches: int, shape: CallShape) -> CallShape:
        """Return the call over ``patches`` of SAM's rows: one more, the class token."""
        return CallShape(batch=batch, tokens=patches + 1, dtype=shape.dtype, attention=shape.attention)

    def features(self, patches: int) -> int:
        """Return the rows handed on: the class token is dropped."""
        return patches
