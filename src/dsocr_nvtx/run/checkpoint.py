"""Loading a DeepSeek-OCR checkpoint from a local folder: safetensors only, no code from the folder, no silent gaps.

The public folder says ``model_type: deepseek_vl_v2``. Given to the library as it stands, its weights match nothing and
every layer stays random, with a warning only. So the configuration is built here, and a key that does not fit refuses.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import UnlimitedOcrConfig, UnlimitedOcrForConditionalGeneration
from transformers.utils import logging

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.checking import MOST_JSON, read_json, read_regular

WEIGHT_FILES: Final = ("model.safetensors", "model.safetensors.index.json")
UNUSED_KEY: Final = "vision_model.embeddings.patch_embedding.weight"
"""In the public checkpoint, and used by nobody: CLIP gets SAM's features in place of patches."""

VENDOR_TEXT_KEYS: Final = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "n_group", "n_routed_experts", "n_shared_experts", "num_experts_per_tok",
    "moe_intermediate_size", "topk_group", "topk_method", "first_k_dense_replace", "routed_scaling_factor",
    "max_position_embeddings", "rms_norm_eps", "hidden_act", "bos_token_id", "eos_token_id",
)  # fmt: skip
"""What a vendor's ``language_config`` says that the native text configuration knows under the same name."""


VENDOR_WINDOW_KEYS: Final = ("sliding_window", "sliding_window_size")
"""Where the vendor's Unlimited-OCR says how long its window is: at the top, and in ``language_config``.

It has one even where it does not say so.
"""

WINDOW_REMEDY: Final = "run measures full attention; `dsocr-nvtx analytic --config` prices a window"
QUANTISED_REMEDY: Final = "run the checkpoint before it was quantised; `dsocr-nvtx analytic --config` counts packed"


def load_checkpoint(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    attention: str = "sdpa",
    experts: str = "grouped_mm",
) -> nn.Module:
    """Return the model of a checkpoint folder, every weight loaded from it; `Refused` if one is missing or left over.

    Reads the public DeepSeek-OCR layout and what `save_pretrained` of the native class writes.
    """
    config = checkpoint_config(folder)
    _check_files(folder)
    options = {
        "config": config,
        "dtype": dtype,
        "attn_implementation": attention,
        "experts_implementation": experts,
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
        "output_loading_info": True,
        # Reported like the other faults, with the names, and then refused; the library's own error names none.
        "ignore_mismatched_sizes": True,
    }
    try:
        with _quiet_library():
            loaded, report = UnlimitedOcrForConditionalGeneration.from_pretrained(str(folder), **options)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise Refused(folder, _first_line(error), "give a whole DeepSeek-OCR checkpoint") from error
    _check_report(folder, report)
    model: nn.Module = loaded
    return model.to(device).eval().requires_grad_(False)


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Keep the library's own bar and report off the terminal: what it would warn of is checked and refused here."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def checkpoint_config(folder: Path) -> UnlimitedOcrConfig:
    """Return the native configuration of a checkpoint folder, in the vendor's layout or the library's own."""
    values = _read_config(folder)
    _refuse_quantised(folder, values)
    if values.get("transformers_weights") is not None:
        found = f"config.json that names its own weights ({values['transformers_weights']})"
        raise Refused(folder, found, f"take transformers_weights out; weights are read from {WEIGHT_FILES[0]}")
    if "language_config" in values:
        return _vendor_config(folder, values)
    if values.get("model_type") != "unlimited_ocr":
        found = f"config.json of model type {values.get('model_type')!r}"
        raise Refused(folder, found, "give a DeepSeek-OCR checkpoint folder")
    config = UnlimitedOcrConfig.from_dict(values)
    if set(config.text_config.layer_types) != {"full_attention"}:
        raise Refused(folder, "decoder layers with sliding-window attention", WINDOW_REMEDY)
    return config


def _refuse_quantised(folder: Path, values: dict[str, Any]) -> None:
    """Refuse packed weights, wherever the configuration says so: they would not fit the model, or be read as others."""
    texts = [values[name] for name in ("language_config", "text_config") if isinstance(values.get(name), dict)]
    for section in (values, *texts):
        for name in ("quantization_config", "quantization"):
            if section.get(name):
                method = section[name].get("quant_method", "MLX") if isinstance(section[name], dict) else section[name]
                raise Refused(folder, f"quantised weights ({name}: {method})", QUANTISED_REMEDY)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    data = read_regular(path, "give the folder that holds the checkpoint's config.json", most=MOST_JSON)
    try:
        values = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(path, f"not readable as JSON ({_first_line(error)})", "download the checkpoint again") from error
    if not isinstance(values, dict):
        raise Refused(path, "JSON that is not an object", "download the checkpoint again")
    return values


def _vendor_config(folder: Path, values: dict[str, Any]) -> UnlimitedOcrConfig:
    text = values["language_config"]
    is_unlimited = str(values.get("model_type")).replace("-", "_") == "unlimited_ocr"
    if is_unlimited or any(section.get(key) for section in (values, text) for key in VENDOR_WINDOW_KEYS):
        raise Refused(folder, "decoder layers with sliding-window attention", WINDOW_REMEDY)
    for key in ("use_mla", "norm_topk_prob"):
        if text.get(key, False):
            raise Refused(folder, f"language_config with {key}", "this network is not DeepSeek-OCR's")
    known = {key: text[key] for key in VENDOR_TEXT_KEYS if text.get(key) is not None}
    try:
        known.setdefault("num_key_value_heads", known["num_attention_heads"])
        known["layer_types"] = ["full_attention"] * int(known["num_hidden_layers"])
        return UnlimitedOcrConfig(text_config=known, vision_config=_vendor_vision(values.get("vision_config", {})))
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(folder, f"config.json lacks or mistakes {_first_line(error)}", "download it again") from error


def _vendor_vision(vision: dict[str, Any]) -> dict[str, Any]:
    """Return the native vision dimensions; what the vendor's file leaves out is fixed in the vendor's code."""
    width = vision.get("width", {})
    sam, clip = width.get("sam_vit_b"), width.get("clip-l-14-224")
    if sam is None or clip is None:
        return {}
    return {
        "sam_config": {
            "hidden_size": sam["width"],
            "num_hidden_layers": sam["layers"],
            "num_attention_heads": sam["heads"],
            "global_attn_indexes": sam["global_attn_indexes"],
            "downsample_channels": sam["downsample_channels"],
            "mlp_dim": 4 * sam["width"],
        },
        "encoder_config": {
            "hidden_size": clip["width"],
            "num_hidden_layers": clip["layers"],
            "num_attention_heads": clip["heads"],
            "image_size": clip["image_size"],
            "patch_size": clip["patch_size"],
            "intermediate_size": 4 * clip["width"],
        },
    }


def _check_files(folder: Path) -> None:
    """Refuse a folder whose weights are not all in safetensors in it: other formats are pickles, which run code."""
    if any((folder / name).is_file() for name in WEIGHT_FILES):
        _check_index(folder / WEIGHT_FILES[1])
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    found = f"only {pickles[0]}, a pickle, which is never opened" if pickles else "no weights"
    raise Refused(folder, found, f"give a folder with {WEIGHT_FILES[0]} or {WEIGHT_FILES[1]}")


def _check_index(path: Path) -> None:
    """Refuse an index that names a weight in anything but a .safetensors file beside it."""
    if not path.exists():
        return
    remedy = "give a whole DeepSeek-OCR checkpoint"
    weights = read_json(path, "no index of weights", remedy).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise Refused(path, "no index of weights", remedy)
    for name in dict.fromkeys(map(str, weights.values())):
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise Refused(path, f"a weight in {name!r}, which is no .safetensors file beside it", remedy)
        if not (path.parent / name).is_file():
            raise Refused(path.parent / name, "no such file, though the index names it", remedy)


def _check_report(folder: Path, report: dict[str, Any]) -> None:
    unexpected = [key for key in report.get("unexpected_keys", ()) if not str(key).endswith(UNUSED_KEY)]
    faults = {
        "missing": list(report.get("missing_keys", ())),
        "unexpected": unexpected,
        "of another shape": [entry[0] for entry in report.get("mismatched_keys", ())],
        "not convertible": list(report.get("error_msgs", ())) + list(report.get("conversion_errors", ())),
    }
    found = "; ".join(
        f"{len(keys)} weights {what}, such as {min(map(str, keys))}" for what, keys in faults.items() if keys
    )
    if found:
        raise Refused(folder, found, "give a whole DeepSeek-OCR checkpoint")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
