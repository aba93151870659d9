from collections.abc import Callable
from typing import Any

import pytest

from dsocr_nvtx.analytic import Layer, build_analytic_layers_from_config
from dsocr_nvtx.analytic.page import Grid, views
from dsocr_nvtx.analytic.table import PageRequest, image_tokens, page_table, page_total, prompt_tokens
from dsocr_nvtx.schema.records import CallShape, Stage

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from tests.analytic.networks import CACHE, empty, kv_cache, true_network  # noqa: E402 - needs what was just made sure of

VIEWS = [(1, 512), (1, 640), (6, 640), (1, 1024), (1, 1280)]
SHAPES = [  # batch, new tokens, tokens before them
    *[(1, tokens, 0) for tokens in (1, 2, 73, 111, 273, 913, 1263)],
    *[(batch, 100, 0) for batch in (2, 3, 16)],
    *[(1, 1, past) for past in (1, 912, 4095, 8191)],
    *[(batch, 1, 8191) for batch in (4, 16)],
    *[(1, 64, 300), (3, 7, 10), (2, 128, 1), (1, 512, 512), (5, 3, 4000)],
]


def counted(call: Callable[[], Any]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def said(layer: Layer, shape: CallShape) -> int:
    return layer.cost(shape).tensor_flops_unmasked


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("batch", "side"), VIEWS)
def test_sam_clip_and_projector_count_what_torch_counts(attention: str, batch: int, side: int) -> None:
    network = true_network(attention, layers=2)
    layers = build_analytic_layers_from_config(network.config)
    tower, grid = network.model.vision_tower, side // 64
    pixels = CallShape(batch=batch, height=side, width=side, attention=attention)
    tokens = CallShape(batch=batch, tokens=grid * grid + 1, attention=attention)
    features = CallShape(batch=batch, tokens=grid * grid)
    assert counted(lambda: tower.sam_encoder(empty(batch, 3, side, side))) == said(layers.sam, pixels)
    assert counted(lambda: tower.vision_encoder(empty(batch, 1024, grid, grid))) == said(layers.clip, tokens)
    project = network.model.multi_modal_projector
    assert counted(lambda: project(empty(batch, grid * grid, 2048))) == said(layers.projector, features)


@pytest.mark.parametrize(("batch", "tokens", "past"), SHAPES)
def test_dense_and_moe_layers_count_what_torch_counts(batch: int, tokens: int, past: int) -> None:
    network = true_network(layers=2)
    layers = build_analytic_layers_from_config(network.config)
    shape = CallShape(batch=batch, tokens=tokens, kv_len=past + tokens, experts="batched_mm")
    rotary = (empty(1, tokens, 128),) * 2
    for index, block in enumerate(network.model.language_model.layers):
        kv = kv_cache(network, batch, past)
        call = {"position_embeddings": rotary, CACHE: kv, "attention_mask": None}
        if tokens > 1 and past:
            call["attention_mask"] = empty(batch, 1, tokens, past + tokens, dtype=torch.bool)
        assert counted(lambda: block(empty(batch, tokens, 1280), **call)) == said(layers.layers[index], shape)  # noqa: B023


@pytest.mark.parametrize(("tokens", "past", "slots"), [(100, 0, 1024), (1, 100, 1024), (16, 100, 512)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_static_cache_is_attended_in_all_its_slots(attention: str, tokens: int, past: int, slots: int) -> None:
    network = true_network(attention, layers=2)
    block = build_analytic_layers_from_config(network.config).layers[0].attention
    shape = CallShape(batch=2, tokens=tokens, kv_len=past + tokens, kv_slots=slots, attention=attention)
    kv, rotary = kv_cache(network, 2, past, slots), (empty(1, tokens, 128),) * 2
    mask = empty(2, 1, tokens, slots) if attention == "eager" else empty(2, 1, tokens, slots, dtype=torch.bool)
    call = {"attention_mask": None if attention == "sdpa" and not past else mask, CACHE: kv}
    module = network.model.language_model.layers[0].self_attn
    measured = counted(lambda: module(empty(2, tokens, 1280), position_embeddings=rotary, **call))
    assert measured == said(block, shape)


@pytest.mark.parametrize("rows", [1, 913])
def test_the_head_counts_what_torch_counts(rows: int) -> None:
    network = true_network(layers=2)
    head = build_analytic_layers_from_config(network.config).lm_head
    assert counted(lambda: network.lm_head(empty(2, rows, 1280))) == said(head, CallShape(batch=2, tokens=rows))


def vision_call(network: Any, mode: str, grid: Grid) -> Callable[[], Any]:
    whole, *tiles = views(mode, grid)
    given: dict[str, Any] = {"pixel_values": empty(1, 3, whole.side, whole.side)}
    for tile in tiles:
        given["pixel_values_local"] = empty(tile.batch, 3, tile.side, tile.side)
        given["num_local_patches"], given["patches_grid"] = [tile.batch], [list(grid)]
    return lambda: network.model.get_image_features(**given)


def text_call(network: Any, tokens: int, kv: Any) -> Callable[[], Any]:
    def call() -> None:
        hidden = network.model.language_model(
            inputs_embeds=empty(1, tokens, 1280), **{CACHE: kv}, use_cache=True
        ).last_hidden_state
        network.lm_head(hidden[:, -1:])

    return call


@pytest.mark.parametrize("mode", ["tiny", "small", "base", "large", "gundam"])
def test_a_whole_page_counts_what_torch_counts(mode: str) -> None:
    network = true_network()
    layers = build_analytic_layers_from_config(network.config)
    request = PageRequest(mode=mode, grid=(2, 3) if mode == "gundam" else (1, 1), decode_tokens=3)
    rows, kv, look = page_table(layers, request), kv_cache(network, 1), vision_call(network, mode, request.grid)
    assert look().pooler_output[0].shape[0] == image_tokens(layers, request)
    assert counted(look) == page_total(rows, Stage.VISION).tensor_flops_unmasked
    prefill = text_call(network, prompt_tokens(layers, request), kv)
    assert counted(prefill) == page_total(rows, Stage.PREFILL).tensor_flops_unmasked
    step = text_call(network, 1, kv)
    assert sum(counted(step) for _ in range(3)) == page_total(rows, Stage.DECODE).tensor_flops_unmasked


@pytest.mark.parametrize("grid", [(2, 1), (1, 2), (2, 2), (3, 1), (3, 2), (3, 3)])
def test_every_grid_of_tiles_counts_what_torch_counts(grid: Grid) -> None:
    network = true_network(layers=2)
    layers = build_analytic_layers_from_config(network.config)
    request = PageRequest(mode="gundam", grid=grid, decode_tokens=100)
    rows, kv = page_table(layers, request), kv_cache(network, 1)
    assert counted(vision_call(network, "gundam", grid)) == page_total(rows, Stage.VISION).tensor_flops_unmasked
    prefill = text_call(network, prompt_tokens(layers, request), kv)
    assert counted(prefill) == page_total(rows, Stage.PREFILL).tensor_flops_unmasked
    # Every step adds one key, so the hundred steps are an arithmetic series between the first and the last.
    first, last = counted(text_call(network, 1, kv)), 0
    longer = kv_cache(network, 1, prompt_tokens(layers, request) + 99)
    last = counted(text_call(network, 1, longer))
    assert 100 * (first + last) // 2 == page_total(rows, Stage.DECODE).tensor_flops_unmasked


def test_a_hundred_decode_steps_count_what_torch_counts() -> None:
    network = true_network(layers=2)
    layers = build_analytic_layers_from_config(network.config)
    request = PageRequest(mode="gundam", grid=(2, 3), decode_tokens=100)
    kv = kv_cache(network, 1, prompt_tokens(layers, request))
    step = text_call(network, 1, kv)
    measured = sum(counted(step) for _ in range(100))
    assert measured == page_total(page_table(layers, request), Stage.DECODE).tensor_flops_unmasked
