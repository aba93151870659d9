"""DeepSeek-OCR-2, small: transformers' own class, whose second encoder is a language model that reads queries."""

from typing import Any

import torch
from transformers import DeepseekOcr2Config, DeepseekOcr2ForConditionalGeneration

SIDES = (1024, 768)
"""Sides in pixels that its encoder has queries for: of the global view, and of tiles."""


def ocr2_model(attention: str = "eager", experts: str = "eager", seed: int = 0) -> Any:
    """Return the network with seeded weights: SAM of three layers, its encoder and decoder of two."""
    text = {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "n_shared_experts": 2, "max_position_embeddings": 512,
        "mlp_layer_types": ["dense", "sparse"],
    }  # fmt: skip
    sam = {
        "hidden_size": 24, "output_channels": 16, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 1024,
        "window_size": 7, "global_attn_indexes": [2], "mlp_dim": 96, "downsample_channels": [24, 64],
    }  # fmt: skip
    encoder = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512,
    }  # fmt: skip
    vision = {"sam_config": sam, "encoder_config": encoder}
    config = DeepseekOcr2Config(text_config=text, vision_config=vision, image_token_id=500)
    torch.manual_seed(seed)
    model: Any = DeepseekOcr2ForConditionalGeneration._from_config(
        config, attn_implementation=attention, experts_implementation=experts
    )
    return model.eval().requires_grad_(False)
