"""A folder that a serving engine takes for DeepSeek-OCR's: configuration and tokenizer, without weights."""

from pathlib import Path
from typing import Any, Final

from dsocr_nvtx.analytic.released import RELEASED
from dsocr_nvtx.schema.files import write_json

_BOS, _EOS, _PAD, _IMAGE = "<bos>", "<eos>", "<pad>", "<image>"
_IMAGE_ID: Final = 128815
_EXTRA: Final = {128820: "<|grounding|>"}
_LONGEST: Final = 8192

_TINY: Final[dict[str, int]] = {
    "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "n_shared_experts": 2, "moe_intermediate_size": 128, "first_k_dense_replace": 1,
}  # fmt: skip
"""A small decoder. The engine builds the vision at full size whatever is said."""

_VISION: Final[dict[str, Any]] = {
    "image_size": 1024, "mlp_ratio": 3.7362, "model_name": "deeplip_b_l", "model_type": "vision",
    "width": {
        "clip-l-14-224": {"heads": 16, "image_size": 224, "layers": 24, "patch_size": 14, "width": 1024},
        "sam_vit_b": {
            "downsample_channels": [512, 1024], "global_attn_indexes": [2, 5, 8, 11], "heads": 12, "layers": 12,
            "width": 768,
        },
    },
}  # fmt: skip


def write_model_folder(folder: Path, config: str) -> None:
    """Write what an engine reads of a model whose weights are random: of ``true`` dimensions, or ``tiny`` ones."""
    decoder = dict(RELEASED["text_config"]) if config == "true" else dict(_TINY)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(_configuration(decoder), folder / "config.json")
    _tokenizer(decoder["vocab_size"]).save(str(folder / "tokenizer.json"))
    special = {"bos_token": _BOS, "eos_token": _EOS, "pad_token": _PAD}
    write_json(
        {"tokenizer_class": "PreTrainedTokenizerFast", **special, "model_max_length": _LONGEST},
        folder / "tokenizer_config.json",
    )
    write_json(
        {
            "processor_class": "DeepseekVLV2Processor", "candidate_resolutions": [[1024, 1024]], "patch_size": 16,
            "downsample_ratio": 4, "image_token": _IMAGE, "pad_token": _PAD, "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5], "normalize": True, "add_special_token": False, "sft_format": "deepseek",
            "mask_prompt": False, "ignore_id": -100,
        },
        folder / "processor_config.json",
    )  # fmt: skip


def _configuration(decoder: dict[str, Any]) -> dict[str, Any]:
    """Return the vendor's configuration, with the keys of the public checkpoint."""
    text = {
        "bos_token_id": 0, "eos_token_id": 1, "kv_lora_rank": None, "lm_head": True, "n_group": 1,
        "q_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "rm_head": False, "topk_group": 1,
        "topk_method": "greedy", "torch_dtype": "bfloat16", "use_mla": False, "v_head_dim": 0,
        "max_position_embeddings": _LONGEST, **decoder,
    }  # fmt: skip
    projector = {"input_dim": 2048, "model_type": "mlp_projector", "n_embed": decoder["hidden_size"]}
    return {
        "architectures": ["DeepseekOCRForCausalLM"], "candidate_resolutions": [[1024, 1024]], "tile_tag": "2D",
        "global_view_pos": "head", "model_type": "deepseek_vl_v2",
        "language_config": {"architectures": ["DeepseekV2ForCausalLM"], **text},
        "projector_config": {**projector, "projector_type": "linear"},
        "vision_config": _VISION, **text,
    }  # fmt: skip


def _tokenizer(vocabulary: int) -> Any:
    """Return a tokenizer of bytes in which every id of the vocabulary exists."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    image = _IMAGE_ID if vocabulary > _IMAGE_ID else vocabulary - 9
    extra = _EXTRA if vocabulary > max(_EXTRA) else {}
    names = {0: _BOS, 1: _EOS, 2: _PAD, image: _IMAGE, **extra}
    letters = iter(sorted(pre_tokenizers.ByteLevel.alphabet()))
    ids = {names[number] if number in names else next(letters, f"<f{number}>"): number for number in range(vocabulary)}
    made: Any = Tokenizer(models.BPE(vocab=ids, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    single = f"{_BOS} $A"
    made.post_processor = processors.TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=[(_BOS, 0)])
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for _, name in sorted(names.items())])
    return made
