"""What a configuration says of quantised weights is what the library then puts into the model."""

from copy import deepcopy
from typing import Any

import pytest

from dsocr_nvtx.analytic import build_analytic_layers_from_config
from dsocr_nvtx.analytic.matrices import matrices, module_name
from dsocr_nvtx.analytic.stored import named_parts

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dsocr_nvtx.hooks.weights import stored_network  # noqa: E402 - needs what was just made sure of
from tests.analytic import networks  # noqa: E402

KEPT = (
    None,
    ["lm_head", "model.vision_tower", "experts", "q_proj"],
    [r"model.language_model.layers.\d+.mlp.shared_experts"],
)


def settings() -> Any:
    return networks.config(deepcopy(networks.SMALL_VISION), **networks.SMALL_TEXT)


def live_and_told(model: Any, told: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of parts with matrices: as they lie in a model, and as a configuration has them."""
    plain = build_analytic_layers_from_config(settings())
    paths = {matrix.part for matrix in matrices(plain, "native")}
    live = stored_network(plain, [(path, model.get_submodule(module_name(plain, "native", path))) for path in paths])
    config = settings()
    config.quantization_config = told
    network = build_analytic_layers_from_config(config)
    found, said = (
        {path: part.weights(2) for path, part in named_parts(one) if path in paths} for one in (live, network)
    )  # fmt: skip
    return found, said


@pytest.mark.parametrize("block", [(128, 128), (64, 48), None])
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_fp8(block: tuple[int, int] | None, kept: list[str] | None, scheme: str) -> None:
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    told = transformers.FineGrainedFP8Config(
        weight_block_size=block, modules_to_not_convert=kept, activation_scheme=scheme
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.UnlimitedOcrForConditionalGeneration(settings()).to(torch.bfloat16)
    fp8.replace_with_fp8_linear(model, kept or ["lm_head"], told)
    for part in model.modules():  # made anew in float32, and loaded in the model's type
        if getattr(part, "bias", None) is not None:
            part.bias = torch.nn.Parameter(part.bias.to(torch.bfloat16), requires_grad=False)
    live, said = live_and_told(model, told.to_dict())
    assert live == said


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("skipped", [None, ["lm_head", "model.vision_tower.sam_encoder", "o_proj"]])
def test_bitsandbytes(bits: int, nested: bool, skipped: list[str] | None, tmp_path: Any) -> None:
    pytest.importorskip("bitsandbytes")
    told = transformers.BitsAndBytesConfig(
        load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=nested,
        llm_int8_skip_modules=skipped,
    )  # fmt: skip
    transformers.UnlimitedOcrForConditionalGeneration(settings()).to(torch.bfloat16).save_pretrained(tmp_path)
    model = transformers.UnlimitedOcrForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=told, dtype=torch.bfloat16
    )  # fmt: skip
    live, said = live_and_told(model, told.to_dict())
    assert live == said
