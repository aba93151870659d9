"""Feed-forward blocks: the vision towers' two layers, the decoder's three, and the projector's one."""

from attrs import frozen

from dsocr_nvtx.analytic import ops
from dsocr_nvtx.analytic.layer import Layer, grid_rows
from dsocr_nvtx.analytic.ops import ACTIVATION_PASSES, VECTOR_FLOPS
from dsocr_nvtx.schema.records import CallShape, Cost, LayerKind


@frozen(kw_only=True)
class VisionMLP(Layer):
    """SAM's and CLIP's feed-forward: ``width -> inner -> width`` with biases."""

    width: int
    inner: int
    activation: str
    kind = LayerKind.MLP

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of both products and the activation between them."""
        rows, size = grid_rows(shape), shape.itemsize
        flops = 2 * ops.matmul_flops(rows, self.width, self.inner)
        moved = ops.linear_elements(rows, self.width, self.inner, bias=True)
        moved += ACTIVATION_PASSES[self.activation] * rows * self.inner
        moved += ops.linear_elements(rows, self.inner, self.width, bias=True)
        return Cost(
            tensor_flops=flops,
            tensor_flops_unmasked=flops,
            vector_flops=rows * (self.inner * (VECTOR_FLOPS[self.activation] + 1) + self.width),
            weight_bytes=self.weights(size),
            activation_bytes=2 * rows * self.width * size,
            op_bytes=moved * size + self.unlike(size),
        )

    def own_parameters(self) -> int:
        """Return both layers' weights and biases."""
        return 2 * self.width * self.inner + self.inner + self.width

    def scratch_bytes(self, shape: CallShape) -> int:
        """Return the hidden rows before and after the activation."""
        return 2 * grid_rows(shape) * self.inner * shape.itemsize


@frozen(kw_only=True)
class DeepseekV2MLP(Layer):
    """The decoder's gated feed-forward: ``down(silu(gate(x)) * up(x))``, dense or as the shared experts."""

    width: int
    inner: int
    bias: bool = False
    kind: LayerKind = LayerKind.MLP

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - routed experts only
        """Return the cost of the three products and the gate."""
        rows, size = shape.rows, shape.itemsize
        flops = 3 * ops.matmul_flops(rows, self.width, self.inner)
        moved = self._gated_elements(rows, shape.is_served)
        moved += ops.linear_elements(rows, self.inner, self.width, self.bias)
        biases = rows * (2 * self.inner + self.width) if self.bias else 0
        return Cost(
            tensor_flops=flops,
            tensor_flops_unmasked=flops,
            vector_flops=rows * self.inner * (VECTOR_FLOPS["silu"] + 1) + biases,
            weight_bytes=self.weights(size),
            activation_bytes=2 * rows * self.width * size,
            op_bytes=moved * size + self.unlike(size),
        )

    def _gated_elements(self, rows: int, fused: bool) -> int:
        """Return the elements moved up to the gated rows: one product and one kernel where that is fused."""
        if fused:
            return ops.linear_elements(rows, self.width, 2 * self.inner, self.bias) + 3 * rows * self.inner
        moved = 2 * ops.linear_elements(rows, self.width, self.inner, self.bias)
        return moved + (ACTIVATION_PASSES["silu"] + 3) * rows * self.inner

    def own_parameters(self) -> int:
        """Return the three layers' weights."""
        outer = 2 * ops.linear_parameters(self.width, self.inner, self.bias)
        return outer + ops.linear_parameters(self.inner, self.width, self.bias)

    def scratch_bytes(self, shape: CallShape) -> int:
        """Return gate, up and their product."""
        return 3 * shape.rows * self.inner * shape.itemsize


@frozen(kw_only=True)
class Linear(Layer):
    """One linear layer over every row."""

    width: int
    columns: int
    bias: bool
    kind: LayerKind

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of the product and the bias."""
        rows, size = shape.rows, shape.itemsize
        flops = ops.matmul_flops(rows, self.width, self.columns)
        return Cost(
            tensor_flops=flops,
            tensor_flops_unmasked=flops,
            vector_flops=rows * self.columns if self.bias else 0,
            weight_bytes=self.weights(size),
            activation_bytes=rows * (self.width + self.columns) * size,
            op_bytes=ops.linear_elements(rows, self.width, self.columns, self.bias) * size + self.unlike(size),
        )

    def own_parameters(self) -> int:
        """Return weight and bias."""
        return ops.linear_parameters(self.width, self.columns, self.bias)


@frozen(kw_only=True)
class MlpProjector(Linear):
    """The step from vision features into the decoder's width; the released model has one linear layer here."""

    bias: bool = True
    kind: LayerKind = LayerKind.PROJECTOR


@frozen(kw_only=True)
class LmHead(Linear):
    """Hidden state to logits. ``rows`` are those really computed: the last of each sequence, or the whole prompt."""

    bias: bool = False
    kind: LayerKind = LayerKind.LM_HEAD
