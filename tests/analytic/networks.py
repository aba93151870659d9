"""The networks that the analytic model is checked against: true sizes on the meta device, small ones on the CPU."""

from functools import cache
from inspect import signature
from typing import Any

import torch
from transformers import DynamicCache, StaticCache
from transformers.models.unlimited_ocr.configuration_unlimited_ocr import UnlimitedOcrConfig
from transformers.models.unlimited_ocr.modeling_unlimited_ocr import (
    UnlimitedOcrForConditionalGeneration,
    UnlimitedOcrTextModel,
)

CACHE = "cache" if "cache" in signature(UnlimitedOcrTextModel.forward).parameters else "past_key_values"
"""What the library's release calls the KV cache."""

SMALL_TEXT = {
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "vocab_size": 512,
}


SMALL_VISION = {
    "sam_config": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_dim": 128,
        "image_size": 256,
        "window_size": 3,
        "global_attn_indexes": [1],
        "output_channels": 32,
        "downsample_channels": [48, 96],
    },
    "encoder_config": {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 16,
    },
}


def config(vision: dict[str, Any] | None = None, **text: Any) -> Any:
    """Return the true configuration, changed where asked."""
    layers = text.get("num_hidden_layers", 12)
    return UnlimitedOcrConfig(text_config={"layer_types": ["full_attention"] * layers, **text}, vision_config=vision)


@cache
def true_network(attention: str = "sdpa", experts: str = "batched_mm", layers: int = 12) -> Any:
    """Return the network at its true widths, without storage."""
    settings = config(num_hidden_layers=layers)
    settings._attn_implementation = attention
    with torch.device("meta"):
        network = UnlimitedOcrForConditionalGeneration(settings)
    network = network.to(torch.bfloat16).eval()
    network.set_experts_implementation(experts)
    return network


@cache
def small_network(experts: str = "eager") -> Any:
    """Return the network with few and narrow layers, which runs on the CPU."""
    network = UnlimitedOcrForConditionalGeneration(config(SMALL_VISION, **SMALL_TEXT)).to(torch.bfloat16).eval()
    network.set_experts_implementation(experts)
    return network


def empty(*size: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Return a tensor without storage."""
    return torch.empty(*size, dtype=dtype, device="meta")


def kv_cache(network: Any, batch: int, past: int = 0, slots: int = 0) -> Any:
    """Return a cache of the network's decoder without storage that holds ``past`` tokens; ``slots``: a static one."""
    text = network.config.text_config
    kv = StaticCache(config=text, max_cache_len=slots) if slots else DynamicCache(config=text)
    for index in range(text.num_hidden_layers):
        keys = empty(batch, text.num_key_value_heads, past, text.head_dim)
        if past:
            kv.update(keys, keys, index)
        elif slots:
            kv.layers[index].lazy_initialization(keys, keys)
    return kv
