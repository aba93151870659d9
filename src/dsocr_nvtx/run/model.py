"""The network: DeepSeek-OCR's true configuration, a tiny one of the same classes, and random weights for either.

transformers has no class named after DeepSeek-OCR, but `UnlimitedOcrForConditionalGeneration` is its network once the
decoder's attention is set to full attention, which every configuration made here does.
"""

import inspect
from typing import Final

import torch
from torch import nn
from transformers import UnlimitedOcrConfig, UnlimitedOcrForConditionalGeneration

from dsocr_nvtx.errors import Unavailable

WEIGHT_STD: Final = 0.02
TRUE_DECODER_LAYERS: Final = 12
TINY_DECODER_LAYERS: Final = 3

CACHE_ARGUMENT: Final = (
    "cache"
    if "cache" in inspect.signature(UnlimitedOcrForConditionalGeneration.forward).parameters
    else "past_key_values"
)
"""The name by which the network takes its KV cache: transformers 5.24 renamed it."""


def true_config() -> UnlimitedOcrConfig:
    """Return the configuration of the public checkpoint; the library's defaults are its numbers but for these."""
    text = {"max_position_embeddings": 8192, "layer_types": ["full_attention"] * TRUE_DECODER_LAYERS}
    return UnlimitedOcrConfig(text_config=text)


def tiny_config() -> UnlimitedOcrConfig:
    """Return a configuration for CPUs and tests: every kind of layer once or twice, images at half the true side.

    Its base side is 512 (patches stay 16 pixels), so the modes' sides halve and stay multiples of 64, as the token
    arithmetic needs. SAM's third layer is global; the first decoder layer is dense, two are mixtures of experts.
    """
    sam = {
        "hidden_size": 48,
        "output_channels": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 512,
        "window_size": 7,
        "global_attn_indexes": [2],
        "mlp_dim": 96,
        "downsample_channels": [48, 64],
    }
    # 8 x 8 positions, the grid of a 512-pixel image; the width is that of SAM's last channel, which feeds it.
    clip = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 112,
        "patch_size": 14,
    }
    vision = {"sam_config": sam, "encoder_config": clip}
    return UnlimitedOcrConfig(text_config=_tiny_text(), vision_config=vision, image_token_id=500)


def _tiny_text() -> dict[str, object]:
    return {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": TINY_DECODER_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "max_position_embeddings": 8192,
        "layer_types": ["full_attention"] * TINY_DECODER_LAYERS,
    }


def base_side(config: UnlimitedOcrConfig) -> int:
    """Return the side in pixels of the image that the configuration's base mode sees: 1024 for the true one."""
    return int(config.vision_config.sam_config.image_size)


def random_model(
    config: UnlimitedOcrConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    attention: str = "sdpa",
    experts: str = "grouped_mm",
) -> nn.Module:
    """Return the network with seeded random weights, made on ``device`` itself: seconds on a GPU at full size.

    Every weight is normal with a standard deviation of 0.02, norms are 1 and biases 0. The library's own
    initialisation leaves SAM all but zero, and a GPU that multiplies zeros draws less power and clocks higher than one
    at work. Equal seed, device, dtype and torch version give equal weights.
    """
    with torch.device("meta"):
        model: nn.Module = UnlimitedOcrForConditionalGeneration._from_config(
            config, dtype=dtype, attn_implementation=attention, experts_implementation=experts
        )
    model.to_empty(device=device)
    _fill_parameters(model, torch.Generator(device=device).manual_seed(seed))
    _fill_buffers(model)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _fill_parameters(model: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter of the model a value: the rules cover all names, so nothing stays uninitialised."""
    for module in model.modules():
        is_norm = isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                parameter.zero_()
            elif is_norm:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, WEIGHT_STD, generator=generator)


@torch.no_grad()
def _fill_buffers(model: nn.Module) -> None:
    """Compute the buffers anew: rotary frequencies and position numbers are no weights, and no checkpoint holds them.

    Each module that owns some is built a second time on the CPU from its own configuration, so that their formulas
    are the library's.
    """
    for module in model.modules():
        buffers = dict(module.named_buffers(recurse=False))
        if not buffers:
            continue
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            fresh = dict(_rebuilt(module).named_buffers(recurse=False))
        for name, buffer in buffers.items():
            buffer.copy_(fresh[name])


def _rebuilt(module: nn.Module) -> nn.Module:
    kind = type(module)
    try:
        fresh: nn.Module = kind(module.config)
    except (AttributeError, TypeError) as error:
        raise Unavailable(
            f"this transformers version has buffers in {kind.__name__} that cannot be computed"
        ) from error
    return fresh
