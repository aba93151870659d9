"""SAM's attention: inside windows or over the whole grid, with relative positions added to the scores."""

from attrs import evolve, frozen

from dsocr_nvtx.analytic import ops
from dsocr_nvtx.analytic.layer import Layer, grid_rows
from dsocr_nvtx.analytic.ops import VECTOR_FLOPS
from dsocr_nvtx.schema.records import CallShape, Cost, LayerKind


@frozen(kw_only=True)
class SamAttention(Layer):
    """Attention of ``batch`` windows of ``height`` x ``width`` patches each; global attention is one window.

    ``table`` is the side for which relative positions were learned; each of its two tables has ``2 table - 1`` rows,
    0 without relative positions. Padding inside a window takes part: the network's softmax runs over it.
    """

    width: int
    heads: int
    window: int
    table: int
    qkv_bias: bool = True

    @property
    def kind(self) -> LayerKind:  # type: ignore[override]
        """Windowed or global."""
        return LayerKind.WINDOW_ATTENTION if self.window else LayerKind.GLOBAL_ATTENTION

    def windows(self, shape: CallShape) -> CallShape:
        """Return the shape of the call in a block over this grid: windows count as batch."""
        if not self.window:
            return shape
        rows, columns = -(-shape.height // self.window), -(-shape.width // self.window)
        count, side = shape.batch * rows * columns, self.window
        return evolve(shape, batch=count, height=side, width=side, tokens=side * side)

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of projections, relative positions, scores, softmax and weighted sum."""
        rows, pairs = grid_rows(shape), self._pairs(shape)
        flops = 4 * ops.matmul_flops(rows, self.width, self.width) + ops.attention_flops(pairs, self._head)
        per_pair = VECTOR_FLOPS["scale"] + VECTOR_FLOPS["softmax"]
        if self.table:
            flops += sum(ops.matmul_flops(rows, self.width, side) for side in (shape.height, shape.width))
            per_pair += 2 * VECTOR_FLOPS["add"]
        biases = rows * self.width * (4 if self.qkv_bias else 1)
        return Cost(
            tensor_flops=flops,
            tensor_flops_unmasked=flops,
            vector_flops=biases + pairs * per_pair,
            weight_bytes=self.weights(shape.itemsize),
            activation_bytes=2 * rows * self.width * shape.itemsize,
            op_bytes=self._op_bytes(shape) + self.unlike(shape.itemsize),
        )

    def own_parameters(self) -> int:
        """Return the projections and both tables of relative positions."""
        tables = 2 * (2 * self.table - 1) * self._head if self.table else 0
        qkv = ops.linear_parameters(self.width, 3 * self.width, self.qkv_bias)
        return qkv + ops.linear_parameters(self.width, self.width, True) + tables

    def scratch_bytes(self, shape: CallShape) -> int:
        """Return queries, keys, values, and the score-sized tensors alive at once: the bias and its copy, or more."""
        score_sized = (2 if self.table else 0) if shape.attention == "sdpa" else 5
        return (3 * grid_rows(shape) * self.width + score_sized * self._pairs(shape)) * shape.itemsize

    @property
    def _head(self) -> int:
        return self.width // self.heads

    def _pairs(self, shape: CallShape) -> int:
        """Return (head, query, key) triples."""
        return self.heads * grid_rows(shape) * shape.height * shape.width

    def _op_bytes(self, shape: CallShape) -> int:
        """Return the traffic of the dispatched operators.

        Splitting queries, keys and values copies them as soon as there is more than one window. The result of fused
        attention comes in the order in which the output projection reads it; the product of eager attention does not.
        """
        rows, pairs, size = grid_rows(shape), self._pairs(shape), shape.itemsize
        one = rows * self.width
        moved = ops.linear_elements(rows, self.width, 3 * self.width, self.qkv_bias)
        moved += ops.linear_elements(rows, self.width, self.width, True)
        moved += 6 * one if shape.batch > 1 else 0
        positions = self._position_bytes(shape)
        if shape.attention != "eager":
            bias = pairs if self.table else 0
            return (moved + ops.fused_attention_elements(one, one) + bias) * size + positions
        moved += 2 * one + 2 * one + (3 * pairs if self.table else 0)
        return moved * size + ops.eager_attention_bytes(pairs, one, one, size) + positions

    def _position_bytes(self, shape: CallShape) -> int:
        """Return the traffic of relative positions: two tables, two products, their sum over all pairs, and its copy.

        The sum is born in the products' permuted order, so giving it the scores' shape copies it once more. The
        second product needs no copy of the queries if they are contiguous, which splitting several windows made them.
        """
        if not self.table:
            return 0
        rows, size = grid_rows(shape), shape.itemsize
        one, per_row = rows * self.width, rows * self.heads * (shape.height + shape.width)
        copies = 2 * one * (1 if shape.batch > 1 else 2)
        products = 2 * one + self._head * (shape.height**2 + shape.width**2) + per_row
        tables = self._table_bytes(shape.height, size) + self._table_bytes(shape.width, size)
        return (copies + products + per_row + 3 * self._pairs(shape)) * size + tables

    def _table_bytes(self, side: int, size: int) -> int:
        """Return the traffic of one table: resized, then gathered by indices that are computed each time."""
        resized = (2 * self.table - 1 + 2 * side - 1) * self._head * size
        indices = side * (4 * ops.INDEX_BYTES + 16) + 24 * side**2
        return resized + indices + side**2 * (2 * self._head * size + ops.INDEX_BYTES)
