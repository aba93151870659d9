"""The whole network: the vision tower over images, the language model over tokens."""

from attrs import frozen

from dsocr_nvtx.analytic.attention import LlamaRotaryEmbedding, is_chunk, is_fresh
from dsocr_nvtx.analytic.clip import VitModel
from dsocr_nvtx.analytic.decoder import (
    DeepseekV2DecoderLayer,
    Qwen2VisionEncoder,
    TokenEmbedding,
    without_cache,
)
from dsocr_nvtx.analytic.layer import Child, Layer
from dsocr_nvtx.analytic.mlp import LmHead, MlpProjector
from dsocr_nvtx.analytic.norms import DeepseekV2RMSNorm
from dsocr_nvtx.analytic.ops import INDEX_BYTES
from dsocr_nvtx.analytic.sam import ImageEncoderViT
from dsocr_nvtx.schema.records import CallShape, Cost


@frozen(kw_only=True)
class VisionTower(Layer):
    """SAM, CLIP on top of it, and the projector over both. Shapes: ``batch`` images of ``height`` x ``width`` pixels.

    ``newlines`` says that every row of the grid ends in a learned token; deepseek_ocr2 has none.
    """

    sam: ImageEncoderViT
    clip: VitModel | Qwen2VisionEncoder
    projector: MlpProjector
    newlines: bool = True

    def children(self, shape: CallShape) -> tuple[Child, ...]:
        """Return the three parts."""
        height, width = self.sam.grid(shape)
        inside = self.clip.call(shape.batch, height * width, shape)
        features = CallShape(batch=shape.batch, tokens=self._features(inside), dtype=shape.dtype)
        return (
            Child(name="sam", description=self.sam, shape=shape),
            Child(name="clip", description=self.clip, shape=inside),
            Child(name="projector", description=self.projector, shape=features),
        )

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of joining SAM's and CLIP's features and of laying the result out as prompt tokens.

        Laying out copies three times: each row with its newline, each page's views with a separator, the batch's
        pages; then the language model's prompt takes the result up.
        """
        height, width = self.sam.grid(shape)
        rows = shape.batch * self._features(self.clip.call(shape.batch, height * width, shape))
        joined = 2 * rows * self.projector.width if isinstance(self.clip, VitModel) else 0
        features = (rows + (shape.batch * height if self.newlines else 0)) * self.projector.columns
        return Cost(
            weight_bytes=self.weights(shape.itemsize),
            activation_bytes=(joined + 2 * features) * shape.itemsize,
            op_bytes=(joined + 7 * features) * shape.itemsize,
        )

    def own_parameters(self) -> int:
        """Return the newline, if there is one, and the separator of views."""
        return (2 if self.newlines else 1) * self.projector.columns

    def io_bytes(self, shape: CallShape) -> int:
        """Return the pixels and the tokens they become."""
        height, width = self.sam.grid(shape)
        rows = shape.batch * self._features(self.clip.call(shape.batch, height * width, shape))
        pixels = shape.batch * shape.height * shape.width * self.sam.patch_embed.channels
        return (pixels + rows * self.projector.columns) * shape.itemsize

    def _features(self, inside: CallShape) -> int:
        """Return the rows the second encoder hands on for each image."""
        if isinstance(self.clip, VitModel):
            return self.clip.features(inside.tokens - 1)
        return self.clip.features(inside.tokens)


@frozen(kw_only=True)
class DeepseekOCRModel(Layer):
    """The model over prompts and decode steps, and, apart from it, its vision tower.

    ``children``, ``own`` and ``cost`` are those of a forward over tokens, with as many rows of logits as the shape
    says. ``vision`` has its own shape, pixels.
    """

    vision: VisionTower
    embed: TokenEmbedding
    rotary: LlamaRotaryEmbedding
    layers: tuple[DeepseekV2DecoderLayer, ...]
    norm: DeepseekV2RMSNorm
    lm_head: LmHead

    @property
    def sam(self) -> ImageEncoderViT:
        """The first image encoder."""
        return self.vision.sam

    @property
    def clip(self) -> VitModel | Qwen2VisionEncoder:
        """The second image encoder."""
        return self.vision.clip

    @property
    def projector(self) -> MlpProjector:
        """The step into the decoder's width."""
        return self.vision.projector

    def children(self, shape: CallShape) -> tuple[Child, ...]:
        """Return embedding, rotary embedding, layers, norm, and the head."""
        flat = without_cache(shape)
        head = _head_shape(shape)
        layers = (
            Child(name=f"decoder.{index}", description=layer, shape=shape, layer=index)
            for index, layer in enumerate(self.layers)
        )
        return (
            Child(name="embed", description=self.embed, shape=flat),
            Child(name="decoder.rotary", description=self.rotary, shape=flat),
            *layers,
            Child(name="decoder.norm", description=self.norm, shape=flat),
            Child(name="lm_head", description=self.lm_head, shape=head),
        )

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - experts only
        """Return the cost of building the masks, and of scattering image features into a prompt.

        That a prompt holds images is taken for granted; the features themselves are counted where they are made. A
        serving engine builds no masks, and which of its rows are an image's is not told: nothing is counted there.
        """
        if shape.ragged:
            return Cost()
        masks = mask_bytes(self.layers[0].attention.seen(shape))
        if not is_fresh(shape):
            return Cost(op_bytes=masks)
        prompt = 2 * shape.rows * self.embed.width * shape.itemsize
        return Cost(activation_bytes=prompt, op_bytes=masks + prompt + shape.rows)

    def io_bytes(self, shape: CallShape) -> int:
        """Return the token numbers and the logits."""
        return INDEX_BYTES * shape.rows + shape.logit_rows * self.lm_head.columns * shape.itemsize

    def parameters(self) -> int:
        """Return all weights, the vision tower's included."""
        return super().parameters() + self.vision.parameters()

    def resident_bytes(self, itemsize: int) -> int:
        """Return the bytes of all weights as they lie, the vision tower's included."""
        return super().resident_bytes(itemsize) + self.vision.resident_bytes(itemsize)


def _head_shape(shape: CallShape) -> CallShape:
    """Return the head's call: as many rows of each sequence, where that divides."""
    each, left = divmod(shape.logit_rows, shape.batch)
    batch, tokens = (1, shape.logit_rows) if left else (shape.batch, each)
    return CallShape(batch=batch, tokens=tokens, dtype=shape.dtype)


def mask_bytes(shape: CallShape) -> int:
    """Return the traffic of building the causal masks, one byte per (query, key) and operand.

    transformers builds the reference-sliding mask in every forward, whether a layer uses it or not: 21 such operands;
    the full one, where fused attention needs it, takes 5; eager attention turns both into numbers.
    """
    rectangle = shape.tokens * shape.slots // shape.batch
    full = shape.attention == "eager" or is_chunk(shape) or shape.kv_slots > shape.kv_len
    numbers = 2 * (1 + shape.itemsize) if shape.attention == "eager" else 0
    return rectangle * (21 + (5 if full else 0) + numbers)
