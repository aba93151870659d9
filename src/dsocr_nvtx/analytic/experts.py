"""The mixture of experts: router, routed experts in each implementation, shared experts.

Shapes: rows (batch times tokens) are what is routed; ``shape.experts`` names the implementation.
"""

from attrs import frozen

from dsocr_nvtx.analytic import ops
from dsocr_nvtx.analytic.layer import Child, Layer
from dsocr_nvtx.analytic.mlp import DeepseekV2MLP
from dsocr_nvtx.analytic.ops import ACTIVATION_PASSES, FLOAT_BYTES, INDEX_BYTES, VECTOR_FLOPS
from dsocr_nvtx.schema.records import CallShape, Cost, LayerKind

ROUTE_BYTES = FLOAT_BYTES + INDEX_BYTES
"""One choice of the router: a weight in float32 and an index."""

SERVED_ROUTE_BYTES = FLOAT_BYTES + 4
"""The same in a serving engine, whose indices are 32 bits long."""


def fused_block_rows(rows: int) -> int:
    """Return the rows of a block in vLLM's fused experts: its default for 16-bit types, where none was tuned."""
    return next((block for most, block in ((32, 16), (96, 32), (512, 64)) if rows <= most), 128)


@frozen(kw_only=True)
class MoEGate(Layer):
    """The router: scores in float32, softmax, the ``top_k`` best."""

    width: int
    experts: int
    top_k: int
    kind = LayerKind.GATE

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - every expert is scored
        """Return the cost of scoring and choosing."""
        rows, size = shape.rows, shape.itemsize
        scores, chosen = rows * self.experts, rows * self.top_k
        flops = ops.matmul_flops(rows, self.width, self.experts)
        per_score = VECTOR_FLOPS["softmax"] + VECTOR_FLOPS["top_k"]
        return Cost(
            tensor_flops=flops,
            tensor_flops_unmasked=flops,
            vector_flops=scores * per_score + chosen * VECTOR_FLOPS["multiply"],
            weight_bytes=self.weights(size),
            activation_bytes=rows * self.width * size + scores * FLOAT_BYTES + chosen * ROUTE_BYTES,
            op_bytes=self._served_bytes(rows, size) if shape.is_served else self._op_bytes(rows, size),
        )

    def own_parameters(self) -> int:
        """Return one row per expert."""
        return self.width * self.experts

    def _served_bytes(self, rows: int, size: int) -> int:
        """Return the traffic of a serving engine: the product in the model's type, then softmax and choice in one."""
        product = ops.linear_elements(rows, self.width, self.experts, False) * size + self.unlike(size)
        return product + rows * self.experts * size + rows * self.top_k * SERVED_ROUTE_BYTES

    def _op_bytes(self, rows: int, size: int) -> int:
        """Return the traffic: hidden state and weight cast to float32, product, softmax, selection, scaling."""
        scores, chosen = rows * self.experts, rows * self.top_k
        kept = self.weights(size) == self.own_parameters() * FLOAT_BYTES  # in float32 already: there is no copy of it
        casts = ops.cast_bytes(rows * self.width + (0 if kept else self.own_parameters()), size)
        product = ops.linear_elements(rows, self.width, self.experts, False) * FLOAT_BYTES
        choice = 3 * scores * FLOAT_BYTES + chosen * (ROUTE_BYTES + 2 * FLOAT_BYTES)
        return casts + product + choice


@frozen(kw_only=True)
class RoutedExperts(Layer):
    """``experts`` gated feed-forwards of which each row passes ``top_k``."""

    width: int
    inner: int
    experts: int
    top_k: int
    kind = LayerKind.EXPERTS

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:
        """Return the cost with the distinct experts observed, or as many as uniform routing would hit."""
        rows, size = shape.rows, shape.itemsize
        pairs = rows * self.top_k
        flops = 3 * ops.matmul_flops(pairs, self.width, self.inner)
        distinct = self.distinct(rows, hit)
        gated = pairs * self.inner * (VECTOR_FLOPS["silu"] + VECTOR_FLOPS["multiply"])
        combined = (2 * pairs - rows) * self.width  # weigh every pair's row, sum those of each token
        return Cost(
            tensor_flops=flops,
            tensor_flops_unmasked=flops,
            vector_flops=gated + combined,
            weight_bytes=round(distinct * self.expert_bytes(size)),
            activation_bytes=2 * rows * self.width * size + pairs * ROUTE_BYTES,
            op_bytes=self._op_bytes(shape, distinct),
        )

    def distinct(self, rows: int, hit: int | None = None) -> float:
        """Return the distinct experts of a call: observed, else expected."""
        return ops.expected_experts(self.experts, self.top_k, rows) if hit is None else hit

    def least_weight_bytes(self, shape: CallShape) -> int:
        """Return the lower bound of ``weight_bytes`` under any routing: all rows share one token's experts."""
        return round(ops.least_experts(self.top_k, shape.rows) * self.expert_bytes(shape.itemsize))

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert."""
        return 3 * self.width * self.inner

    def expert_bytes(self, itemsize: int) -> float:
        """Return the bytes of one expert as it lies: the average, where experts are stored unlike each other."""
        return self.weights(itemsize) / self.experts

    def own_parameters(self) -> int:
        """Return all experts' weights."""
        return self.experts * self.expert_parameters

    def scratch_bytes(self, shape: CallShape) -> int:
        """Return the chosen rows in and out, gate and up; batched_mm adds its copy of the larger weight."""
        pairs = shape.rows * self.top_k
        copied = 2 * pairs * self.width * self.inner if shape.experts == "batched_mm" else 0
        return (pairs * (2 * self.width + 3 * self.inner) + copied) * shape.itemsize

    def _op_bytes(self, shape: CallShape, distinct: float) -> int:
        """Return the traffic of the implementation. Other fused ones read what grouped_mm reads."""
        if shape.is_served:
            return self._fused_bytes(shape, distinct)
        pairs, size = shape.rows * self.top_k, shape.itemsize
        inside = (pairs * (2 * self.width + (5 + ACTIVATION_PASSES["silu"]) * self.inner + self.inner)) * size
        weighed = pairs * (self.width * (size + FLOAT_BYTES) + FLOAT_BYTES)
        if shape.experts == "eager":
            return inside + weighed + self._eager_bytes(shape, distinct)
        summed = (pairs + shape.rows) * self.width * FLOAT_BYTES + ops.cast_bytes(shape.rows * self.width, size)
        if shape.experts == "batched_mm":
            return inside + weighed + summed + self._batched_bytes(shape)
        return inside + weighed + summed + self._grouped_bytes(shape, distinct)

    def _eager_bytes(self, shape: CallShape, distinct: float) -> int:
        """Return a loop over hit experts: one-hot mask, a scan of it per expert, gather, weights once, index_add."""
        rows, size = shape.rows, shape.itemsize
        pairs = rows * self.top_k
        mask = INDEX_BYTES * pairs * (2 * (self.experts + 1) + 3) + INDEX_BYTES * pairs
        scans = round(distinct * pairs * INDEX_BYTES) + 2 * pairs * INDEX_BYTES
        gathered = pairs * (2 * self.width * size + 3 * INDEX_BYTES + 2 * FLOAT_BYTES)
        added = ops.cast_bytes(pairs * self.width, size) + pairs * (3 * self.width * size + INDEX_BYTES)
        weights = round(distinct * self.expert_bytes(size))
        return mask + scans + gathered + added + weights + rows * self.width * size

    def _fused_bytes(self, shape: CallShape, distinct: float) -> int:
        """Return the traffic of a serving engine's fused kernel.

        Rows are sorted into blocks of one expert each; two products, with SwiGLU between them, read the expert's
        weights once per block; a sum over each token's experts comes last.
        """
        rows, size = shape.rows, shape.itemsize
        pairs = rows * self.top_k
        rest = ops.further_blocks(self.experts, self.top_k, rows, fused_block_rows(rows))
        weights = round((distinct + rest) * self.expert_bytes(size))
        inside = pairs * (self.width + 2 * self.inner + 3 * self.inner + self.inner + self.width)
        summed = (pairs + rows) * self.width
        routing = pairs * (SERVED_ROUTE_BYTES + 2 * 4)
        return weights + (inside + summed) * size + routing

    def _batched_bytes(self, shape: CallShape) -> int:
        """Return one weight per pair: copied, duplicates included, then read by the product."""
        pairs, size = shape.rows * self.top_k, shape.itemsize
        repeated = (shape.rows + pairs) * self.width * size
        return repeated + round(pairs * 3 * self.expert_bytes(size)) + pairs * 2 * INDEX_BYTES

    def _grouped_bytes(self, shape: CallShape, distinct: float) -> int:
        """Return pairs sorted by expert, gathered, weights of hit experts once, put back in order."""
        pairs, size = shape.rows * self.top_k, shape.itemsize
        sorting = pairs * (3 * INDEX_BYTES + 2 * INDEX_BYTES + 2 * FLOAT_BYTES + INDEX_BYTES)
        counting = pairs * (INDEX_BYTES + 2 * FLOAT_BYTES) + 5 * self.experts * FLOAT_BYTES
        gathered = pairs * (2 * self.width * size + INDEX_BYTES)
        restored = pairs * (2 * self.width * FLOAT_BYTES + 5 * INDEX_BYTES)
        return sorting + counting + gathered + restored + round(distinct * self.expert_bytes(size))


@frozen(kw_only=True)
class DeepseekV2MoE(Layer):
    """Router, routed experts, and the shared experts every row passes, as one wider feed-forward."""

    gate: MoEGate
    experts: RoutedExperts
    shared_experts: DeepseekV2MLP | None

    def children(self, shape: CallShape) -> tuple[Child, ...]:
        """Return router, routed and shared experts."""
        routed = (
            Child(name="gate", description=self.gate, shape=shape),
            Child(name="experts", description=self.experts, shape=shape),
        )
        if self.shared_experts is None:
            return routed
        return (*routed, Child(name="shared_experts", description=self.shared_experts, shape=shape))

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - weights are the experts' own
        """Return the cost of adding the shared experts' result."""
        if self.shared_experts is None:
            return Cost()
        elements = shape.rows * self.gate.width
        moved = 3 * elements * shape.itemsize
        return Cost(vector_flops=VECTOR_FLOPS["add"] * elements, activation_bytes=moved, op_bytes=moved)

    def io_bytes(self, shape: CallShape) -> int:
        """Return the hidden state, read and written."""
        return 2 * shape.rows * self.gate.width * shape.itemsize
