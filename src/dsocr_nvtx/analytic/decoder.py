"""The decoder's layer, and the vision encoder of deepseek_ocr2, which is built of the same kind of layer."""

from attrs import frozen

from dsocr_nvtx.analytic.attention import LlamaFlashAttention2, LlamaRotaryEmbedding
from dsocr_nvtx.analytic.experts import DeepseekV2MoE
from dsocr_nvtx.analytic.layer import Child, Layer
from dsocr_nvtx.analytic.mlp import DeepseekV2MLP
from dsocr_nvtx.analytic.norms import DeepseekV2RMSNorm
from dsocr_nvtx.analytic.ops import INDEX_BYTES, VECTOR_FLOPS
from dsocr_nvtx.schema.records import CallShape, Cost, LayerKind


@frozen(kw_only=True)
class DeepseekV2DecoderLayer(Layer):
    """Norm, attention, norm, and a dense feed-forward or a mixture of experts."""

    input_norm: DeepseekV2RMSNorm
    attention: LlamaFlashAttention2
    post_norm: DeepseekV2RMSNorm
    mlp: DeepseekV2MLP | DeepseekV2MoE

    def children(self, shape: CallShape) -> tuple[Child, ...]:
        """Return the four parts; only attention's cost depends on the KV cache, so only it is told."""
        flat = without_cache(shape)
        name = "moe" if isinstance(self.mlp, DeepseekV2MoE) else "mlp"
        return (
            Child(name="input_norm", description=self.input_norm, shape=flat),
            Child(name="attention", description=self.attention, shape=shape),
            Child(name="post_norm", description=self.post_norm, shape=flat),
            Child(name=name, description=self.mlp, shape=flat),
        )

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of two residual additions; the kernels of a serving engine do them inside the norms."""
        elements = shape.rows * self.input_norm.width
        moved = 6 * elements * shape.itemsize
        dispatched = 0 if shape.is_served else moved
        return Cost(vector_flops=2 * VECTOR_FLOPS["add"] * elements, activation_bytes=moved, op_bytes=dispatched)

    def io_bytes(self, shape: CallShape) -> int:
        """Return the hidden state, read and written."""
        return 2 * shape.rows * self.input_norm.width * shape.itemsize

    def scratch_bytes(self, shape: CallShape) -> int:
        """Return the residual beside what the layer works on."""
        return shape.rows * self.input_norm.width * shape.itemsize


@frozen(kw_only=True)
class TokenEmbedding(Layer):
    """The token table: as many rows are read as there are tokens, wherever they repeat."""

    vocabulary: int
    width: int
    kind = LayerKind.EMBED

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of looking every token up."""
        ids, values = INDEX_BYTES * shape.rows, shape.rows * self.width * shape.itemsize
        looked_up = shape.rows * self.weights(shape.itemsize) // self.vocabulary
        return Cost(weight_bytes=looked_up, activation_bytes=ids + values, op_bytes=ids + looked_up + values)

    def own_parameters(self) -> int:
        """Return the table."""
        return self.vocabulary * self.width


@frozen(kw_only=True)
class Qwen2VisionEncoder(Layer):
    """deepseek_ocr2's second encoder: SAM's rows and as many learned queries through a small decoder.

    The queries' results go on. Shapes: ``batch`` images of ``tokens`` rows, the queries included.
    """

    queries: tuple[int, ...]
    blocks: tuple[DeepseekV2DecoderLayer, ...]
    norm: DeepseekV2RMSNorm
    rotary: LlamaRotaryEmbedding

    def children(self, shape: CallShape) -> tuple[Child, ...]:
        """Return rotary embedding, blocks and norm."""
        blocks = (
            Child(name=str(index), description=block, shape=shape, layer=index)
            for index, block in enumerate(self.blocks)
        )
        return (
            Child(name="rotary", description=self.rotary, shape=shape),
            *blocks,
            Child(name="norm", description=self.norm, shape=shape),
        )

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of appending the queries."""
        width, size = self.norm.width, shape.itemsize
        appended = self.features(shape.tokens)
        patches = shape.batch * (shape.tokens - appended)
        moved = (patches + appended + shape.rows) * width * size
        table = self.weights(size) * appended // sum(self.queries)
        return Cost(weight_bytes=table, activation_bytes=moved, op_bytes=moved)

    def own_parameters(self) -> int:
        """Return the tables of queries."""
        return sum(self.queries) * self.norm.width

    def io_bytes(self, shape: CallShape) -> int:
        """Return SAM's rows and the queries' results."""
        return shape.rows * self.norm.width * shape.itemsize

    @property
    def width(self) -> int:
        """Width of a row."""
        return self.norm.width

    def call(self, batch: int, patches: int, shape: CallShape) -> CallShape:
        """Return the call over ``patches`` of SAM's rows: the queries are appended."""
        tokens = patches + self.features(2 * patches)
        return CallShape(batch=batch, tokens=tokens, dtype=shape.dtype, attention=shape.attention)

    def features(self, tokens: int) -> int:
        """Return the rows handed on: those of the learned queries."""
        return self.blocks[0].attention.appended(tokens)


def without_cache(shape: CallShape) -> CallShape:
    """Return the shape without its KV lengths: equal at every decode step, so that costs can be looked up by shape.

    Rows are rows there, whichever sequence they belong to.
    """
    if shape.ragged:
        return CallShape(
            tokens=shape.rows, dtype=shape.dtype, attention=shape.attention, experts=shape.experts
        )  # fmt: skip
    if not shape.kv_len and not shape.kv_slots:
        return shape
    return CallShape(batch=shape.batch, tokens=shape.tokens, dtype=shape.dtype, experts=shape.experts)
