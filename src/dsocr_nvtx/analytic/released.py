"""The released DeepSeek-OCR's configuration as plain numbers, and a configuration read from a file."""

from pathlib import Path
from typing import Any, Final

from dsocr_nvtx.schema.checking import read_json

RELEASED: Final[dict[str, Any]] = {
    "text_config": {
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
    },
    "vision_config": {
        "sam_config": {
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
        },
        "encoder_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        },
    },
}
"""What `config.json` of the public checkpoint says, under the native class's names."""


def read_config(path: Path) -> dict[str, Any]:
    """Return a Hugging Face ``config.json``, native or vendor's; a checkpoint folder stands for the one inside."""
    remedy = "name a Hugging Face config.json of DeepSeek-OCR"
    file = path / "config.json" if path.is_dir() else path
    return read_json(file, "not a readable JSON object", remedy)
