"""The image encoders from their configurations."""

from dsocr_nvtx.analytic.attention import LlamaFlashAttention2, LlamaRotaryEmbedding
from dsocr_nvtx.analytic.clip import ClipAttention, ClipBlock, ClipEmbeddings, VitModel
from dsocr_nvtx.analytic.decoder import DeepseekV2DecoderLayer, Qwen2VisionEncoder
from dsocr_nvtx.analytic.dims import Section
from dsocr_nvtx.analytic.mlp import DeepseekV2MLP, VisionMLP
from dsocr_nvtx.analytic.norms import DeepseekV2RMSNorm, LayerNorm
from dsocr_nvtx.analytic.sam import ImageEncoderViT, PatchEmbed, SamBlock, SamNeck, SamProj
from dsocr_nvtx.analytic.sam_attention import SamAttention

ACTIVATIONS = ("gelu", "quick_gelu")

QWEN_QUERIES = (144, 256)
"""deepseek_ocr2's learned queries, for 768 and for 1024 pixels: hard-wired in its code."""


def build_sam(section: Section) -> ImageEncoderViT:
    """Return SAM's encoder."""
    width, layers = section.count("hidden_size"), section.layers("num_hidden_layers")
    section.divides("num_attention_heads", "hidden_size")
    grid = section.side("image_size") // section.side("patch_size")
    if grid < 1:
        raise section.refuse("image_size", "is smaller than one patch")
    everywhere = section.indices("global_attn_indexes", layers)
    channels = section.count("output_channels", 256)
    windowed, whole = _sam_block(section, grid, None), _sam_block(section, grid, 0)
    return ImageEncoderViT(
        patch_embed=PatchEmbed(
            channels=section.count("num_channels", 3), patch=section.side("patch_size"), width=width
        ),
        position_grid=grid if section.flag("use_abs_pos", True) else 0,
        blocks=tuple(whole if index in everywhere else windowed for index in range(layers)),
        neck=SamNeck(width=width, channels=channels),
        proj=SamProj(channels=channels, steps=section.counts("downsample_channels")),
    )


def _sam_block(section: Section, grid: int, window: int | None) -> SamBlock:
    """Return a block with windows, or over the whole grid where ``window`` is 0."""
    width = section.count("hidden_size")
    window = section.index("window_size") if window is None else window
    norm = LayerNorm(width=width)
    attention = SamAttention(
        width=width,
        heads=section.count("num_attention_heads"),
        window=window,
        table=(window or grid) if section.flag("use_rel_pos", True) else 0,
        qkv_bias=section.flag("qkv_bias", True),
    )
    return SamBlock(norm1=norm, attention=attention, norm2=norm, mlp=_vision_mlp(section, "mlp_dim", "gelu"))


def build_clip(section: Section) -> VitModel:
    """Return CLIP; its own patch convolution is never used and not counted."""
    width = section.count("hidden_size")
    section.divides("num_attention_heads", "hidden_size")
    norm = LayerNorm(width=width)
    block = ClipBlock(
        norm1=norm,
        attention=ClipAttention(width=width, heads=section.count("num_attention_heads")),
        norm2=norm,
        mlp=_vision_mlp(section, "intermediate_size", "quick_gelu"),
    )
    positions = (section.side("image_size") // section.side("patch_size")) ** 2
    if positions < 1:
        raise section.refuse("image_size", "is smaller than one patch")
    return VitModel(
        embeddings=ClipEmbeddings(width=width, positions=positions),
        pre_norm=norm,
        blocks=(block,) * section.layers("num_hidden_layers"),
    )


def _vision_mlp(section: Section, inner: str, activation: str) -> VisionMLP:
    return VisionMLP(
        width=section.count("hidden_size"),
        inner=section.count(inner),
        activation=section.word("hidden_act", activation, ACTIVATIONS),
    )


def build_qwen(section: Section) -> Qwen2VisionEncoder:
    """Return deepseek_ocr2's second encoder."""
    section.words("layer_types", section.layers("num_hidden_layers"), ("full_attention",))
    width, heads = section.count("hidden_size"), section.count("num_attention_heads")
    head_dim, norm = section.divides("num_attention_heads", "hidden_size"), DeepseekV2RMSNorm(width=width)
    grouped = section.divides("num_key_value_heads", "num_attention_heads")
    attention = LlamaFlashAttention2(
        width=width, heads=heads, kv_heads=heads // grouped, head_dim=head_dim, bias=True, queries=QWEN_QUERIES
    )
    mlp = DeepseekV2MLP(width=width, inner=section.count("intermediate_size"))
    block = DeepseekV2DecoderLayer(input_norm=norm, attention=attention, post_norm=norm, mlp=mlp)
    return Qwen2VisionEncoder(
        queries=QWEN_QUERIES,
        blocks=(block,) * section.layers("num_hidden_layers"),
        norm=norm,
        rotary=LlamaRotaryEmbedding(head_dim=head_dim),
    )
