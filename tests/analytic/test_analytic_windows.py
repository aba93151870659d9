"""Reference sliding windows: the prompt stays, and the last tokens decoded, as the library's own masks have it."""

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dsocr_nvtx.analytic import LlamaFlashAttention2, build_analytic_layers_from_config
from dsocr_nvtx.analytic.table import PageRequest, page_table, page_total
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.records import CallShape, Stage
from tests.analytic.settings import native, vendor

ATTENTION = LlamaFlashAttention2(width=8, heads=2, kv_heads=2, head_dim=4, window=3)
CALLS = [  # prompt, then the tokens of each further call: one at a time, several amid decode, the window overrun
    (5, (1,) * 9),
    (4, (2, 3, 1, 4, 5, 1)),
    (1, (1, 1, 6, 1)),
    (7, (8, 1)),
]


def seen(prompt: int, window: int, first: int, last: int) -> int:
    """Return the pairs of rows ``first`` to ``last``, one key after the other."""
    return sum(
        1 for query in range(first, last) for key in range(query + 1) if key < prompt or key > query - window
    )  # fmt: skip


@pytest.mark.parametrize("window", [1, 2, 3, 8, 100])
@pytest.mark.parametrize(("prompt", "calls"), CALLS)
def test_pairs_are_those_that_the_window_leaves(window: int, prompt: int, calls: tuple[int, ...]) -> None:
    attention, keys = LlamaFlashAttention2(width=8, heads=2, kv_heads=2, head_dim=4, window=window), prompt
    assert attention.pairs(CallShape(tokens=prompt, kv_len=prompt)) == prompt * (prompt + 1) // 2
    for tokens in calls:
        keys += tokens
        shape = CallShape(batch=2, tokens=tokens, kv_len=keys, prompt=prompt)
        assert attention.pairs(shape) == 2 * seen(prompt, window, keys - tokens, keys)


def test_a_decode_step_by_hand() -> None:
    # prompt 10, window 3: the twentieth token sees 10 + 3 keys of two heads of four, the cache keeps 10 + 2 of them
    shape = CallShape(tokens=1, kv_len=20, prompt=10)
    cost = ATTENTION.own(shape)
    assert cost.tensor_flops == cost.tensor_flops_unmasked == 8 * 8 * 8 + 4 * 8 * 13
    assert cost.kv_read_bytes == 13 * 2 * 8 * 2
    assert cost.kv_write_bytes == 2 * 8 * 2
    assert ATTENTION.kv_cache_bytes(shape) == 12 * 2 * 8 * 2
    assert ATTENTION.own(CallShape(tokens=1, kv_len=12, prompt=10)).kv_read_bytes == 12 * 2 * 8 * 2
    # chunks of a prompt have no window, and without a cache all is prompt
    chunk = CallShape(tokens=4, kv_len=8, prompt=10)
    assert ATTENTION.own(chunk).tensor_flops == 4 * 8 * 8 * 8 + 4 * 8 * (5 + 6 + 7 + 8)
    assert ATTENTION.pairs(CallShape(tokens=9)) == 45


def test_a_layer_that_is_not_told_the_prompt_has_no_cost() -> None:
    with pytest.raises(ValueError, match="how long the prompt is"):
        ATTENTION.own(CallShape(tokens=1, kv_len=20))
    with pytest.raises(ValueError, match="not alike"):
        ATTENTION.own(CallShape.of_sequences([(1, 20)], prompt=10))


def windows(config: Any) -> list[int]:
    return [layer.attention.window for layer in build_analytic_layers_from_config(config).layers]


def test_the_library_says_which_layers_have_a_window() -> None:
    config = native()
    assert windows(config) == [0] * 12
    config["text_config"]["sliding_window"] = 64
    assert windows(config) == [64] * 12
    config["text_config"]["layer_types"] = ["full_attention", "reference_sliding_attention"] * 6
    assert windows(config) == [0, 64] * 6
    config["text_config"]["layer_types"] = ["full_attention"] * 12
    assert windows(config) == [0] * 12
    assert windows({**native(), "model_type": "unlimited_ocr"}) == [128] * 12


@pytest.mark.parametrize("nested", [True, False])
def test_the_vendor_says_it_at_the_top_and_in_the_language_model(nested: bool) -> None:
    assert windows(vendor(nested)) == [0] * 12
    assert windows({**vendor(nested), "model_type": "unlimited-ocr"}) == [128] * 12
    top = {**vendor(nested), "sliding_window": 128}
    assert windows(top) == [128] * 12
    inside = {**vendor(nested), "language_config": {**vendor(True)["language_config"], "sliding_window_size": 96}}
    assert windows(inside) == [96] * 12
    with pytest.raises(Refused, match=r"one of several lengths of the window, \[96, 128\]"):
        windows({**inside, "sliding_window": 128})


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("layer_types", ["sliding_attention"] * 12, "not 12 of full_attention, reference_sliding_attention"),
        ("layer_types", ["reference_sliding_attention"] * 12, "sliding_window: is missing"),
        ("sliding_window", 0, "less than 1"),
        ("sliding_window", "128", "not a whole number"),
    ],
)
def test_other_windows_are_refused_by_name(field: str, value: object, says: str) -> None:
    config = native()
    config["text_config"][field] = value
    with pytest.raises(Refused, match=says):
        build_analytic_layers_from_config(config)


def test_a_page_decodes_within_its_window() -> None:
    request, config = PageRequest(mode="base", decode_tokens=400), native()
    whole = page_total(page_table(build_analytic_layers_from_config(config), request), Stage.DECODE)
    config["text_config"]["sliding_window"] = 128
    layers = build_analytic_layers_from_config(config)
    decode = page_total(page_table(layers, request), Stage.DECODE)
    unseen = 12 * sum(step - 128 for step in range(129, 401))
    assert whole.kv_read_bytes - decode.kv_read_bytes == unseen * 5120
    assert whole.tensor_flops - decode.tensor_flops == unseen * 4 * 1280
    plain = build_analytic_layers_from_config(native())
    assert page_total(page_table(layers, request), Stage.PREFILL).tensor_flops == (
        page_total(page_table(plain, request), Stage.PREFILL).tensor_flops
    )


@cache
def sliding(window: int, attention: str, device: str) -> Any:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.unlimited_ocr.modeling_unlimited_ocr import UnlimitedOcrForConditionalGeneration

    from tests.analytic import networks

    kinds = ["reference_sliding_attention"] * networks.SMALL_TEXT["num_hidden_layers"]
    text = {**networks.SMALL_TEXT, "layer_types": kinds, "sliding_window": window}
    settings = networks.config(deepcopy(networks.SMALL_VISION), **text)
    settings._attn_implementation = attention
    with torch.device(device):
        network = UnlimitedOcrForConditionalGeneration(settings)
    network.set_experts_implementation("batched_mm")
    return network.to(torch.bfloat16).eval()


@pytest.mark.parametrize("window", [2, 5])
@pytest.mark.parametrize(("prompt", "calls"), CALLS)
def test_the_librarys_masks_leave_the_same_pairs(window: int, prompt: int, calls: tuple[int, ...]) -> None:
    network = sliding(window, "eager", "cpu")
    import torch
    from transformers import DynamicCache

    from tests.analytic.networks import CACHE

    attention = build_analytic_layers_from_config(network.config).layers[0].attention
    kv, keys, masks = DynamicCache(config=network.config.text_config), 0, []
    module = network.model.language_model.layers[0].self_attn
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )  # fmt: skip
    try:
        for tokens in (prompt, *calls):
            keys += tokens
            with torch.no_grad():
                network.model.language_model(input_ids=torch.zeros(1, tokens, dtype=torch.long), **{CACHE: kv})
            shape, mask = CallShape(tokens=tokens, kv_len=keys, prompt=prompt), masks.pop()
            assert int((mask == 0).sum()) == attention.pairs(shape)
            assert mask.shape[-1] == attention.seen(shape).kv_len
            layer = kv.layers[0]
            held = [layer.prefill_keys, layer.prefill_values, layer.keys, layer.values]
            bytes_held = sum(part.numel() * part.element_size() for part in held if part is not None)
            assert bytes_held == attention.kv_cache_bytes(shape)
    finally:
        handle.remove()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("slots", [0, 40])
def test_torch_counts_the_same(attention: str, slots: int) -> None:
    network = sliding(5, attention, "meta")
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import DynamicCache, StaticCache

    from tests.analytic.networks import CACHE

    layers, keys = build_analytic_layers_from_config(network.config), 0
    text = network.config.text_config
    kv = StaticCache(config=text, max_cache_len=slots) if slots else DynamicCache(config=text)
    for tokens in (7, *(1,) * 9):
        keys += tokens
        ids = torch.zeros(2, tokens, dtype=torch.long, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            hidden = network.model.language_model(input_ids=ids, **{CACHE: kv}).last_hidden_state
            network.lm_head(hidden[:, -1:])
        shape = CallShape(
            batch=2, tokens=tokens, kv_len=keys, kv_slots=slots, prompt=7, experts="batched_mm", attention=attention
        )  # fmt: skip
        assert layers.cost(shape).tensor_flops_unmasked == counter.get_total_flops(), tokens


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tokens", [1, 4])
def test_torch_moves_what_is_said(attention: str, tokens: int) -> None:
    network = sliding(5, attention, "meta")
    import torch
    from transformers import DynamicCache

    from tests.analytic.networks import CACHE, empty
    from tests.analytic.opbytes import OpBytes

    described = build_analytic_layers_from_config(network.config).layers[0].attention
    kv, keys, module = (
        DynamicCache(config=network.config.text_config),
        0,
        network.model.language_model.layers[0].self_attn,
    )
    for rows in (30, *(1,) * 9, tokens):
        keys += rows
        shape = CallShape(batch=2, tokens=rows, kv_len=keys, prompt=30, attention=attention)
        size, angles = described.seen(shape).kv_len, (empty(1, rows, 64),) * 2
        mask = empty(2, 1, rows, size, dtype=torch.bool if attention == "sdpa" else torch.bfloat16)
        with torch.no_grad(), OpBytes() as moved:
            module(empty(2, rows, 256), attention_mask=mask, position_embeddings=angles, **{CACHE: kv})
        assert described.own(shape).op_bytes == pytest.approx(moved.total, rel=0.05), rows


def test_the_command_prices_a_window(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from dsocr_nvtx.cli.commands import app

    config = tmp_path / "config.json"
    config.write_text(json.dumps({**vendor(nested=True), "model_type": "unlimited-ocr", "sliding_window": 128}))
    done = CliRunner().invoke(app, ["analytic", "--config", str(config), "--decode-tokens", "1000"])
    assert done.exit_code == 0, done.output
    # 913 tokens of the prompt and 127 of the window, 61,440 bytes each: 0.064 GB, where all tokens take 0.118
    assert "KV cache 0.064 GB" in done.output
