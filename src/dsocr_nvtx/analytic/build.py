"""From a Hugging Face configuration to layer descriptions: native, deepseek_ocr2, and the vendor's remote code.

Nothing is read but sizes, the attention windows among them, and how weights are stored. What the vendor's code
hard-wires instead of configuring stands in `VENDOR_SAM` and `VENDOR_CLIP`, once.
"""

from typing import Any, Final

from dsocr_nvtx.analytic.attention import LlamaFlashAttention2, LlamaRotaryEmbedding
from dsocr_nvtx.analytic.build_vision import build_clip, build_qwen, build_sam
from dsocr_nvtx.analytic.clip import VitModel
from dsocr_nvtx.analytic.decoder import DeepseekV2DecoderLayer, TokenEmbedding
from dsocr_nvtx.analytic.dims import Section
from dsocr_nvtx.analytic.experts import DeepseekV2MoE, MoEGate, RoutedExperts
from dsocr_nvtx.analytic.mlp import DeepseekV2MLP, LmHead, MlpProjector
from dsocr_nvtx.analytic.model import DeepseekOCRModel, VisionTower
from dsocr_nvtx.analytic.norms import DeepseekV2RMSNorm
from dsocr_nvtx.analytic.quantised import quantisation, quantised
from dsocr_nvtx.analytic.windows import windows
from dsocr_nvtx.schema.records import LayerKind

VENDOR_SAM: Final[dict[str, Any]] = {
    "image_size": 1024,
    "patch_size": 16,
    "num_channels": 3,
    "window_size": 14,
    "mlp_ratio": 4,
    "output_channels": 256,
}
VENDOR_CLIP: Final[dict[str, Any]] = {"mlp_ratio": 4, "hidden_act": "quick_gelu"}


def build_analytic_layers_from_config(config: Any) -> DeepseekOCRModel:
    """Return the model that a configuration (object or dictionary) describes, its weights as quantised as it says.

    Raises `Refused`, naming the field, for a configuration that is incomplete or cannot be a network.
    """
    root = Section(config)
    text = _text_section(root)
    width, sparse = text.count("hidden_size"), _sparse_layers(text)
    each = tuple(zip(sparse, windows(root, text, len(sparse)), strict=True))
    kinds = {kind: _decoder_layer(text, *kind) for kind in set(each)}  # equal layers share one description
    network = DeepseekOCRModel(
        vision=_vision_tower(root.section("vision_config"), width),
        embed=TokenEmbedding(vocabulary=text.count("vocab_size"), width=width),
        rotary=LlamaRotaryEmbedding(head_dim=_head_dim(text)),
        layers=tuple(kinds[kind] for kind in each),
        norm=DeepseekV2RMSNorm(width=width),
        lm_head=LmHead(width=width, columns=text.count("vocab_size")),
    )
    return quantised(root, text, network)


def said_quantisation(config: Any, network: DeepseekOCRModel) -> str | None:
    """Return in words how a configuration stores the weights of its network; None where they are plain."""
    root = Section(config)
    return quantisation(root, _text_section(root), network)


def _vision_tower(vision: Section, width: int) -> VisionTower:
    """Return both encoders and the projector; an encoder with an RMS norm is deepseek_ocr2's, else it is CLIP."""
    sam_section, encoder = _vision_sections(vision)
    sam, second = build_sam(sam_section), build_qwen(encoder) if encoder.has("rms_norm_eps") else build_clip(encoder)
    is_clip, channels = isinstance(second, VitModel), sam.proj.steps[-1]
    if channels != second.width:
        found = f"ends in {channels} channels, but the encoder after it is {second.width} wide"
        raise sam_section.refuse("downsample_channels", found)
    features = second.width + (channels if is_clip else 0)  # CLIP's and SAM's features are joined
    projector = MlpProjector(width=features, columns=width)
    return VisionTower(sam=sam, clip=second, projector=projector, newlines=is_clip)


def _text_section(root: Section) -> Section:
    """Return the decoder's configuration: a part of its own, or the vendor's flat fields.

    The vendor's files hold both ``language_config`` and flat fields; its code reads the flat ones.
    """
    if root.has("text_config"):
        return root.section("text_config")
    if root.has("hidden_size"):
        return root
    return root.section("language_config" if root.has("language_config") else "text_config")


def _vision_sections(vision: Section) -> tuple[Section, Section]:
    """Return SAM's and the second encoder's configuration, the vendor's translated to the native names."""
    if not vision.has("width"):
        return vision.section("sam_config"), vision.section("encoder_config")
    parts = vision.section("width")
    sam, clip = parts.section("sam_vit_b"), parts.section("clip-l-14-224")
    return _translated(sam, VENDOR_SAM), _translated(clip, VENDOR_CLIP)


def _translated(section: Section, constants: dict[str, Any]) -> Section:
    """Return a vendor's section under the native names, completed by what its code hard-wires."""
    names = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
    merged = {**constants, **section.given("image_size", "patch_size", "global_attn_indexes", "downsample_channels")}
    merged |= {names[old]: value for old, value in section.given(*names).items()}
    if "mlp_ratio" in merged and isinstance(merged.get("hidden_size"), int):
        merged["mlp_dim"] = merged["intermediate_size"] = merged["hidden_size"] * merged["mlp_ratio"]
    return Section(merged, section.path)


def _sparse_layers(text: Section) -> tuple[bool, ...]:
    """Say for each decoder layer whether it is a mixture of experts."""
    layers = text.layers("num_hidden_layers")
    kinds = text.words("mlp_layer_types", layers, ("dense", "sparse"))
    if kinds is not None:
        return tuple(kind == "sparse" for kind in kinds)
    if not text.has("n_routed_experts"):
        return (False,) * layers
    dense, every = text.index("first_k_dense_replace", 1), text.count("moe_layer_freq", 1)
    return tuple(index >= dense and index % every == 0 for index in range(layers))


def _decoder_layer(text: Section, sparse: bool, window: int) -> DeepseekV2DecoderLayer:
    width = text.count("hidden_size")
    norm = DeepseekV2RMSNorm(width=width)
    dense = DeepseekV2MLP(width=width, inner=text.count("intermediate_size"), bias=text.flag("mlp_bias", False))
    mlp = _mixture(text, width) if sparse else dense
    return DeepseekV2DecoderLayer(input_norm=norm, attention=_attention(text, window), post_norm=norm, mlp=mlp)


def _attention(text: Section, window: int) -> LlamaFlashAttention2:
    if text.has("use_mla") and text.flag("use_mla", False):
        raise text.refuse("use_mla", "is true: latent attention is not what DeepSeek-OCR has")
    heads, head_dim = text.count("num_attention_heads"), _head_dim(text)
    groups = text.divides("num_key_value_heads", "num_attention_heads") if text.has("num_key_value_heads") else 1
    bias = text.flag("attention_bias", False)
    return LlamaFlashAttention2(
        width=text.count("hidden_size"),
        heads=heads,
        kv_heads=heads // groups,
        head_dim=head_dim,
        bias=bias,
        out_bias=bias,
        window=window,
    )


def _head_dim(text: Section) -> int:
    """Return the width of a head: hidden size over heads, which must agree with the field where there is one."""
    head_dim = text.divides("num_attention_heads", "hidden_size")
    if text.has("head_dim") and text.count("head_dim") != head_dim:
        raise text.refuse(
            "head_dim", f"is {text.count('head_dim')}, but hidden_size / num_attention_heads = {head_dim}"
        )
    return head_dim


def _mixture(text: Section, width: int) -> DeepseekV2MoE:
    inner, experts = text.count("moe_intermediate_size"), text.count("n_routed_experts")
    top_k, shared = text.at_most("num_experts_per_tok", "n_routed_experts"), text.index("n_shared_experts", 0)
    joint = DeepseekV2MLP(
        width=width, inner=inner * shared, bias=text.flag("mlp_bias", False), kind=LayerKind.SHARED_EXPERTS
    )
    return DeepseekV2MoE(
        gate=MoEGate(width=width, experts=experts, top_k=top_k),
        experts=RoutedExperts(width=width, inner=inner, experts=experts, top_k=top_k),
        shared_experts=joint if shared else None,
    )
