"""Configurations as plain dictionaries: the released model's in three layouts, and small random ones."""

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from dsocr_nvtx.schema.records import CallShape

TEXT: dict[str, Any] = {
    "vocab_size": 129280,
    "hidden_size": 1280,
    "intermediate_size": 6848,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "num_key_value_heads": 10,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
    "moe_intermediate_size": 896,
    "first_k_dense_replace": 1,
}
SAM: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 1024,
    "patch_size": 16,
    "window_size": 14,
    "global_attn_indexes": [2, 5, 8, 11],
    "mlp_dim": 3072,
    "output_channels": 256,
    "downsample_channels": [512, 1024],
}
CLIP: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
VENDOR_VISION: dict[str, Any] = {
    "image_size": 1024,
    "mlp_ratio": 3.7362,
    "model_name": "deeplip_b_l",
    "width": {
        "clip-l-14-224": {"heads": 16, "image_size": 224, "layers": 24, "patch_size": 14, "width": 1024},
        "sam_vit_b": {
            "downsample_channels": [512, 1024],
            "global_attn_indexes": [2, 5, 8, 11],
            "heads": 12,
            "layers": 12,
            "width": 768,
        },
    },
}


def native() -> dict[str, Any]:
    """Return the released model's configuration under the native names."""
    return deepcopy({"text_config": TEXT, "vision_config": {"sam_config": SAM, "encoder_config": CLIP}})


def vendor(nested: bool) -> dict[str, Any]:
    """Return it as the vendor's config.json has it: the decoder's fields flat, or under ``language_config``."""
    text = {**TEXT, "use_mla": False, "topk_method": "greedy"}
    return deepcopy({**({"language_config": text} if nested else text), "vision_config": VENDOR_VISION})


@st.composite
def small_configs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw networks of a few narrow layers."""
    heads, groups, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), 2 * draw(st.integers(1, 4))
    experts = draw(st.integers(1, 9))
    text = {
        "vocab_size": draw(st.integers(2, 90)),
        "hidden_size": heads * groups * head_dim,
        "intermediate_size": draw(st.integers(1, 40)),
        "num_hidden_layers": draw(st.integers(1, 4)),
        "num_attention_heads": heads * groups,
        "num_key_value_heads": heads,
        "n_routed_experts": experts,
        "num_experts_per_tok": draw(st.integers(1, experts)),
        "n_shared_experts": draw(st.integers(0, 2)),
        "moe_intermediate_size": draw(st.integers(1, 20)),
        "first_k_dense_replace": draw(st.integers(0, 2)),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
    }
    sam_layers, width = draw(st.integers(1, 3)), 4 * draw(st.integers(1, 5))
    sam = {
        "hidden_size": 6 * draw(st.integers(1, 3)),
        "num_hidden_layers": sam_layers,
        "num_attention_heads": draw(st.sampled_from([1, 2, 3])),
        "image_size": 16 * draw(st.integers(1, 10)),
        "patch_size": 16,
        "window_size": draw(st.integers(1, 5)),
        "global_attn_indexes": draw(st.lists(st.integers(0, sam_layers - 1), unique=True)),
        "mlp_dim": draw(st.integers(1, 9)),
        "output_channels": draw(st.integers(1, 9)),
        "downsample_channels": [draw(st.integers(1, 9)), width],
        "use_abs_pos": draw(st.booleans()),
        "use_rel_pos": draw(st.booleans()),
        "qkv_bias": draw(st.booleans()),
    }
    clip = {
        "hidden_size": width,
        "intermediate_size": draw(st.integers(1, 30)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": draw(st.sampled_from([1, 2, 4])),
        "image_size": 56,
        "patch_size": 14,
    }
    return {"text_config": text, "vision_config": {"sam_config": sam, "encoder_config": clip}}


@st.composite
def text_shapes(draw: st.DrawFn) -> CallShape:
    """Draw forwards over tokens: with and without a cache, dynamic or static, whole or in chunks."""
    tokens, past = draw(st.integers(1, 40)), draw(st.integers(0, 60))
    cached = draw(st.booleans()) or past > 0
    spare = draw(st.integers(0, 30)) if cached else 0
    return CallShape(
        batch=draw(st.integers(1, 4)),
        tokens=tokens,
        kv_len=past + tokens if cached else 0,
        kv_slots=past + tokens + spare if spare else 0,
        dtype=draw(st.sampled_from(["bfloat16", "float32"])),
        attention=draw(st.sampled_from(["sdpa", "eager", "flash_attention_2"])),
        experts=draw(st.sampled_from(["eager", "grouped_mm", "batched_mm", "deepgemm"])),
    )


@st.composite
def image_shapes(draw: st.DrawFn) -> CallShape:
    """Draw batches of square images whose sides are whole tokens."""
    side = 64 * draw(st.integers(1, 5))
    attention = draw(st.sampled_from(["sdpa", "eager"]))
    return CallShape(batch=draw(st.integers(1, 3)), height=side, width=side, attention=attention)
