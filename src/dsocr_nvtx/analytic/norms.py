"""Layer norm and RMS norm."""

from attrs import frozen

from dsocr_nvtx.analytic import ops
from dsocr_nvtx.analytic.layer import Layer, grid_rows
from dsocr_nvtx.analytic.ops import VECTOR_FLOPS
from dsocr_nvtx.schema.records import CallShape, Cost, LayerKind


@frozen(kw_only=True)
class LayerNorm(Layer):
    """A layer norm with scale and shift over rows of ``width``."""

    width: int
    kind = LayerKind.NORM

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of normalising every row."""
        rows, size = grid_rows(shape), shape.itemsize
        return Cost(
            vector_flops=VECTOR_FLOPS["layer_norm"] * rows * self.width,
            weight_bytes=self.weights(size),
            activation_bytes=2 * rows * self.width * size,
            op_bytes=ops.layer_norm_bytes(rows, self.width, size) + self.unlike(size),
        )

    def own_parameters(self) -> int:
        """Return scale and shift."""
        return 2 * self.width


@frozen(kw_only=True)
class DeepseekV2RMSNorm(Layer):
    """The decoder's RMS norm over rows of ``width``, computed in float32."""

    width: int
    kind = LayerKind.NORM

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of normalising every row."""
        rows, size = shape.rows, shape.itemsize
        moved = ops.served_norm_bytes if shape.is_served else ops.rms_norm_bytes
        return Cost(
            vector_flops=VECTOR_FLOPS["rms_norm"] * rows * self.width,
            weight_bytes=self.weights(size),
            activation_bytes=2 * rows * self.width * size,
            op_bytes=moved(rows, self.width, size) + self.unlike(size),
        )

    def own_parameters(self) -> int:
        """Return the scale."""
        return self.width
