"""deepseek_ocr2: the same SAM and decoder, and a small decoder with learned queries in CLIP's place."""

from functools import cache
from inspect import signature
from typing import Any

import pytest

from dsocr_nvtx.analytic import build_analytic_layers_from_config
from dsocr_nvtx.analytic.table import PageRequest, image_tokens, page_table, page_total
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.records import CallShape, Stage

torch = pytest.importorskip("torch")
modeling = pytest.importorskip("transformers.models.deepseek_ocr2.modeling_deepseek_ocr2")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402 - needs what was just made sure of

from tests.analytic.networks import empty  # noqa: E402
from tests.analytic.opbytes import OpBytes  # noqa: E402

SAM = {"downsample_channels": [512, 896], "mlp_dim": 3072}
ENCODER = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
TEXT = {
    "vocab_size": 129280,
    "hidden_size": 1280,
    "intermediate_size": 6848,
    "num_hidden_layers": 2,
    "num_attention_heads": 10,
    "num_key_value_heads": 10,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 896,
    "mlp_layer_types": ["dense", "sparse"],
}


@cache
def network() -> Any:
    """Return the network without storage."""
    settings = modeling.DeepseekOcr2Config(
        vision_config={"sam_config": SAM, "encoder_config": ENCODER}, text_config=TEXT
    )
    with torch.device("meta"):
        made = modeling.DeepseekOcr2ForConditionalGeneration(settings)
    made = made.to(torch.bfloat16).eval()
    made.set_experts_implementation("batched_mm")
    return made


def test_parameters_are_the_networks() -> None:
    layers = build_analytic_layers_from_config(network().config)
    assert layers.parameters() == sum(weight.numel() for weight in network().parameters())


@pytest.mark.parametrize(("batch", "side"), [(1, 1024), (6, 768), (2, 1024)])
def test_the_vision_tower_counts_and_moves_what_torch_does(batch: int, side: int) -> None:
    layers, model = build_analytic_layers_from_config(network().config), network().model
    with torch.no_grad(), FlopCounterMode(display=False) as flops, OpBytes() as moved:
        model.multi_modal_projector(model.vision_tower(empty(batch, 3, side, side)).last_hidden_state)
    cost = layers.vision.cost(CallShape(batch=batch, height=side, width=side))
    assert cost.tensor_flops_unmasked == flops.get_total_flops()
    assert cost.tensor_flops < cost.tensor_flops_unmasked  # the queries are causal
    assert cost.op_bytes == pytest.approx(moved.total, rel=0.05)


def test_a_page_has_one_token_per_query_and_a_separator() -> None:
    layers = build_analytic_layers_from_config(network().config)
    page = PageRequest(mode="gundam", grid=(2, 3), tile_side=768, experts="batched_mm")
    assert image_tokens(layers, page) == 6 * 144 + 256 + 1
    whole, tiles = empty(1, 3, 1024, 1024), empty(6, 3, 768, 768)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        found = network().model.get_image_features(whole, tiles, [6]).pooler_output[0]
    assert found.shape[0] == image_tokens(layers, page)
    assert page_total(page_table(layers, page), Stage.VISION).tensor_flops_unmasked == flops.get_total_flops()


@pytest.mark.parametrize(("batch", "grid"), [(1, 16), (6, 12), (2, 16)])
def test_the_encoder_and_its_layers_count_what_torch_does(batch: int, grid: int) -> None:
    described, encoder = build_analytic_layers_from_config(network().config).clip, network().model.vision_tower
    shape = described.call(batch, grid * grid, CallShape())
    counts: dict[str, int] = {}
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        encoder.vision_encoder(empty(batch, shape.tokens, 896), num_patches=grid * grid)
        counts = {name: sum(found.values()) for name, found in flops.get_flop_counts().items()}
    assert described.cost(shape).tensor_flops_unmasked == flops.get_total_flops()
    for name, kind in (("self_attn", "attention"), ("mlp", "mlp")):
        found = {count for path, count in counts.items() if path.endswith(f"layers.0.{name}")}
        part = {child.name: child for child in described.blocks[0].children(shape)}[kind]
        assert found == {part.description.cost(part.shape).tensor_flops_unmasked}


def test_prefill_and_decode_count_what_torch_does() -> None:
    layers, cache, keys = build_analytic_layers_from_config(network().config), None, 0
    for tokens in (300, 1, 1, 5):
        keys += tokens
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            given = {"inputs_embeds": empty(2, tokens, 1280), "use_cache": True}
            made = network().model.language_model(**given, **({} if cache is None else {cached(): cache}))
            network().lm_head(made.last_hidden_state[:, -1:])
        cache = made.cache if hasattr(made, "cache") else made.past_key_values
        shape = CallShape(batch=2, tokens=tokens, kv_len=keys, experts="batched_mm")
        assert layers.cost(shape).tensor_flops_unmasked == flops.get_total_flops()


def cached() -> str:
    """Return what the library's release calls the KV cache."""
    known = signature(modeling.DeepseekOcr2TextModel.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def test_a_window_in_the_encoder_is_refused_by_name() -> None:
    config = modeling.DeepseekOcr2Config(vision_config={"sam_config": SAM, "encoder_config": ENCODER}, text_config=TEXT)
    told = config.to_dict()
    told["vision_config"]["encoder_config"]["layer_types"] = ["sliding_attention"] * 24
    with pytest.raises(Refused, match=r"encoder_config\.layer_types: .*not 24 of full_attention"):
        build_analytic_layers_from_config(told)
