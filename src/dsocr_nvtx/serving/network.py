"""What a served model computes: its decoder's configuration as the engine read it, beside the vision that it builds."""

from collections.abc import Mapping
from typing import Any

from dsocr_nvtx.analytic.build import build_analytic_layers_from_config
from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.analytic.released import RELEASED
from dsocr_nvtx.errors import Refused

_ALONE = ("tensor_parallel_size", "pipeline_parallel_size")


def network_of(engine_config: Any, name: str) -> DeepseekOCRModel:
    """Return the description of the model that vLLM serves, from the engine's configuration (``vllm_config``).

    Raises `Refused`, naming ``name``, for a model in parts on several devices.
    """
    parallel = getattr(engine_config, "parallel_config", None)
    for size in _ALONE:
        if getattr(parallel, size, 1) != 1:
            raise Refused(name, f"{size} is {getattr(parallel, size)}", "costs are known of a model on one device")
    return build_analytic_layers_from_config(_described(engine_config.model_config.hf_config))


def _described(config: Any) -> dict[str, Any]:
    """Return decoder and vision: vLLM builds DeepSeek-OCR's vision without looking at the configuration."""
    text = getattr(config, "text_config", config)
    fields = text.to_dict() if hasattr(text, "to_dict") else dict(vars(text))
    if not fields.get("head_dim"):  # 0 where latent attention, to which it belongs, is not used
        fields.pop("head_dim", None)
    vision = getattr(config, "vision_config", None)
    known = vision if isinstance(getattr(vision, "width", None), Mapping) else RELEASED["vision_config"]
    quantisation = getattr(config, "quantization_config", None)
    stored = {} if quantisation is None else {"quantization_config": quantisation}
    return {"text_config": fields, "vision_config": known, **stored}
