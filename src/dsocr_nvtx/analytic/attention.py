"""The decoder's attention with its KV cache, and the rotary embedding it takes.

Shapes: ``batch`` sequences of ``tokens`` new tokens; ``kv_len`` keys once they are appended, 0 without a cache;
``kv_slots`` is the length of a static cache, told from a dynamic one by being longer than ``kv_len``. Sequences that
are not alike come as sums; their cache is paged, and kernels for them need no mask.

With a reference sliding window a query sees the prompt (``shape.prompt`` keys, all of the first call into the cache)
and of what was decoded the last ``window`` tokens, its own among them; what no query will see again leaves the cache.
"""

from attrs import evolve, frozen

from dsocr_nvtx.analytic import ops
from dsocr_nvtx.analytic.layer import Layer
from dsocr_nvtx.analytic.ops import FLOAT_BYTES, INDEX_BYTES, VECTOR_FLOPS
from dsocr_nvtx.schema.records import CallShape, Cost, LayerKind, causal_pairs


@frozen(kw_only=True)
class LlamaRotaryEmbedding(Layer):
    """Cosine and sine of every position, computed in float32 once per forward and shared by the layers."""

    head_dim: int

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of one table of positions, which sequences that are alike share."""
        angles, size = shape.positions * self.head_dim, shape.itemsize
        outer = (INDEX_BYTES + 2 * FLOAT_BYTES) * shape.positions + FLOAT_BYTES * angles // 2
        moved = 5 * 2 * FLOAT_BYTES * angles + 2 * ops.cast_bytes(angles, size)
        return Cost(
            vector_flops=VECTOR_FLOPS["trigonometry"] * angles,
            activation_bytes=INDEX_BYTES * shape.positions + 2 * angles * size,
            op_bytes=outer + moved,
        )


@frozen(kw_only=True)
class LlamaFlashAttention2(Layer):
    """Multi-head attention, grouped if there are fewer key heads; whichever backend ``shape.attention`` names.

    ``bias`` and ``out_bias`` say which projections have one. ``queries`` belongs to deepseek_ocr2's vision encoder:
    the numbers of learned queries it can append to the image's tokens, which see each other without a mask. ``window``
    is that of reference sliding attention, 0 without one.
    """

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    bias: bool = False
    out_bias: bool = False
    queries: tuple[int, ...] = ()
    window: int = 0
    kind = LayerKind.ATTENTION

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of projections, rotation, cache, scores, softmax and weighted sum."""
        pairs, shape = self.pairs(shape), self.seen(shape)
        rows, size = shape.rows, shape.itemsize
        projections = 2 * ops.matmul_flops(rows, self.width, self._out + self._kv)
        rectangle = self.rectangle(shape)
        per_pair = VECTOR_FLOPS["scale"] + VECTOR_FLOPS["softmax"]
        vector = VECTOR_FLOPS["rotary"] * rows * (self._out + self._kv) + per_pair * self.heads * pairs
        cached = 2 * self._kv * size
        return Cost(
            tensor_flops=projections + ops.attention_flops(pairs, self._out),
            tensor_flops_unmasked=projections + ops.attention_flops(rectangle, self._out),
            vector_flops=vector + rows * self._biases,
            weight_bytes=self.weights(size),
            activation_bytes=2 * (rows * self.width + shape.positions * self.head_dim) * size,
            kv_read_bytes=cached * shape.cached_keys,
            kv_write_bytes=cached * rows if shape.cached_keys else 0,
            op_bytes=self._op_bytes(shape) + self.unlike(size),
        )

    def own_parameters(self) -> int:
        """Return the four projections."""
        return 2 * self.width * (self._out + self._kv) + self._biases

    def kv_cache_bytes(self, shape: CallShape) -> int:
        """Return the bytes of the cache's keys and values after the call."""
        seen = self.seen(shape)
        held = max(seen.slots, seen.cached_keys) if seen.cached_keys or seen.kv_slots else 0
        if self._drops(shape) and not shape.kv_slots:
            held = shape.batch * (shape.prompt + min(shape.kv_len - shape.prompt, self.window - 1))
        return 2 * self._kv * held * shape.itemsize

    def scratch_bytes(self, shape: CallShape) -> int:
        """Return queries, keys and values, and for eager attention the scores in both precisions."""
        scores = self.rectangle(self.seen(shape)) if shape.attention == "eager" else 0
        pairs = 3 * self.heads * scores
        return (shape.rows * (self._out + 2 * self._kv) + pairs) * shape.itemsize

    def pairs(self, shape: CallShape) -> int:
        """Return the (query, key) pairs that the mask leaves, over all sequences."""
        if self._drops(shape):
            first, last = shape.kv_len - shape.tokens, shape.kv_len
            return shape.batch * (self._pairs_up_to(last, shape.prompt) - self._pairs_up_to(first, shape.prompt))
        if not self.queries:
            return shape.pairs
        return shape.batch * ops.prefix_pairs(shape.tokens - self.appended(shape.tokens), shape.tokens)

    def rectangle(self, shape: CallShape) -> int:
        """Return the (query, key) pairs that the kernel gets, masked ones too, over all sequences."""
        return shape.ragged.rectangle if shape.ragged else shape.rows * self._kernel_keys(shape)

    def seen(self, shape: CallShape) -> CallShape:
        """Return the shape with the keys that the layer's cache hands to the kernel: with a window not all of them.

        A static cache has room for the prompt and the window; a dynamic one keeps what the next query will see.
        """
        if not self.window:
            return shape
        if shape.ragged:
            raise ValueError("windows of sequences that are not alike are not modelled")
        slots = shape.kv_slots and min(shape.prompt or shape.kv_len, max(shape.kv_slots - self.window, 0))
        slots += min(self.window, shape.kv_slots)
        if not self._drops(shape):
            return evolve(shape, kv_slots=slots) if slots else shape
        before = max(shape.kv_len - shape.tokens, shape.prompt)
        keys = shape.prompt + min(before - shape.prompt, self.window - 1) + shape.kv_len - before
        return evolve(shape, kv_len=keys, kv_slots=slots)

    def _drops(self, shape: CallShape) -> bool:
        """Say whether rows beyond the prompt are among the call's: only those have a window."""
        if not self.window or shape.kv_len <= shape.tokens:
            return False
        if not shape.prompt:
            raise ValueError("a layer with a reference sliding window must be told how long the prompt is")
        return shape.kv_len > shape.prompt

    def _pairs_up_to(self, rows: int, prompt: int) -> int:
        """Return the pairs of a sequence's first ``rows`` rows."""
        decoded = max(rows - prompt, 0)
        growing = min(decoded, self.window)
        in_window = growing * (growing + 1) // 2 + (decoded - growing) * self.window
        return causal_pairs(rows - decoded, rows - decoded) + decoded * prompt + in_window

    def appended(self, tokens: int) -> int:
        """Return how many of the tokens are learned queries: the first number that covers the image's tokens."""
        return next((count for count in self.queries if tokens - count <= count), self.queries[-1])

    @property
    def _out(self) -> int:
        return self.heads * self.head_dim

    @property
    def _kv(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def _biases(self) -> int:
        return (self._out + 2 * self._kv if self.bias else 0) + (self.width if self.out_bias else 0)

    def _kernel_keys(self, shape: CallShape) -> int:
        """Return a sequence's keys in the kernel: all slots, but the prompt's own for the first call into them.

        transformers cuts a fresh static cache to the prompt so that fused attention can use its causal flag; eager
        attention, and a prompt of one token, take all slots under a mask.
        """
        cut = is_fresh(shape) and shape.attention != "eager" and not self.window
        return shape.tokens if cut else shape.slots // shape.batch

    def _mask_bytes(self, shape: CallShape) -> int:
        """Return the bytes of the mask fused attention reads: none if "causal" or "everything" says the same."""
        if shape.ragged or shape.attention != "sdpa":
            return 0
        static = shape.kv_slots > shape.kv_len
        needed = bool(self.queries) or is_chunk(shape) or (static and not is_fresh(shape)) or self.window
        return self.rectangle(shape) if needed else 0

    def _op_bytes(self, shape: CallShape) -> int:
        """Return the traffic of the dispatched operators."""
        if shape.ragged:
            return self._served_bytes(shape)
        rows, size, angles = shape.rows, shape.itemsize, shape.tokens * self.head_dim
        moved = ops.linear_elements(rows, self.width, self._out, self.bias)
        moved += 2 * ops.linear_elements(rows, self.width, self._kv, self.bias)
        moved += ops.linear_elements(rows, self._out, self.width, self.out_bias)
        moved += ops.rotary_elements(rows * self._out, angles) + ops.rotary_elements(rows * self._kv, angles)
        queries, keys = rows * self._out, shape.batch * self._kernel_keys(shape) * self._out
        mask = self._mask_bytes(shape)
        if self.heads != self.kv_heads and (shape.attention == "eager" or (mask and shape.tokens > 1)):
            moved += 2 * (keys + keys * self.kv_heads // self.heads)  # every query head is given its own copy
        elif self.heads != self.kv_heads:
            keys = keys * self.kv_heads // self.heads
        if shape.attention != "eager":
            moved += ops.fused_attention_elements(queries, keys)
            return moved * size + mask + self._cache_bytes(shape)
        pairs = self.heads * self.rectangle(shape)
        masked = 2 * pairs + 2 * pairs + self.rectangle(shape)  # scale, then add the mask
        copies = 2 * queries * ((shape.batch > 1) + 1) if shape.tokens > 1 else 0
        eager = ops.eager_attention_bytes(pairs, queries, keys, size)
        return (moved + masked + copies) * size + eager + self._cache_bytes(shape)

    def _served_bytes(self, shape: CallShape) -> int:
        """Return the traffic of a serving engine.

        One product makes queries, keys and values; they are rotated in place; new rows are written into the cache, and
        attention reads its blocks.
        """
        rows, joint = shape.rows, self._out + 2 * self._kv
        moved = ops.linear_elements(rows, self.width, joint, self.bias)
        moved += ops.linear_elements(rows, self._out, self.width, self.out_bias)
        moved += rows * (2 * (self._out + self._kv) + self.head_dim)
        moved += 2 * rows * 2 * self._kv
        moved += 2 * rows * self._out + 2 * (shape.slots if shape.cached_keys else rows) * self._kv
        return moved * shape.itemsize + 2 * INDEX_BYTES * rows  # the position and the place in the cache of every row

    def _cache_bytes(self, shape: CallShape) -> int:
        """Return the traffic of appending: a dynamic cache is concatenated anew, a static one written in place."""
        if not shape.kv_len:
            return 0
        new = shape.batch * shape.tokens * self._kv * shape.itemsize
        if shape.kv_slots > shape.kv_len:
            return 2 * (2 * new + INDEX_BYTES * shape.tokens) + 4 * INDEX_BYTES * (shape.tokens + 1)
        # With a window what was decoded is put together first, and then the prompt before it.
        windowed = shape.kv_len - shape.prompt if self.window and 0 < shape.prompt < shape.kv_len else 0
        return 2 * 2 * shape.batch * (shape.kv_len + windowed) * self._kv * shape.itemsize


def is_fresh(shape: CallShape) -> bool:
    """Say whether a call of several tokens is the first into its cache."""
    return shape.tokens > 1 and shape.kv_len in (0, shape.tokens)


def is_chunk(shape: CallShape) -> bool:
    """Say whether several tokens follow others in the cache: then fused attention needs a mask."""
    return 1 < shape.tokens < shape.kv_len
