"""Operator by operator, on the meta device (true sizes) or the CPU (the expert loop needs values): within 5 %."""

from collections.abc import Callable
from typing import Any

import pytest

from dsocr_nvtx.analytic import Layer, build_analytic_layers_from_config
from dsocr_nvtx.analytic.table import PageRequest, page_table, page_total, prompt_tokens
from dsocr_nvtx.schema.records import CallShape, Stage

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.analytic.networks import CACHE, empty, kv_cache, small_network, true_network  # noqa: E402 - needs what was just made sure of
from tests.analytic.opbytes import OpBytes  # noqa: E402


def moved(call: Callable[[], Any], hits: int | None = None) -> int:
    with torch.no_grad(), OpBytes(hits) as counter:
        call()
    return counter.total


def near(said: int, measured: int) -> bool:
    return abs(said - measured) <= 0.05 * measured


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("batch", "side"), [(1, 512), (6, 640), (1, 1024), (1, 1280)])
def test_vision_moves_what_torch_dispatches(attention: str, batch: int, side: int) -> None:
    network = true_network(attention, layers=2)
    layers = build_analytic_layers_from_config(network.config)
    sam, clip, grid = network.model.vision_tower.sam_encoder, network.model.vision_tower.vision_encoder, side // 64
    pixels = CallShape(batch=batch, height=side, width=side, attention=attention)
    tokens = CallShape(batch=batch, tokens=grid * grid + 1, attention=attention)
    assert near(layers.sam.cost(pixels).op_bytes, moved(lambda: sam(empty(batch, 3, side, side))))
    assert near(layers.clip.cost(tokens).op_bytes, moved(lambda: clip(empty(batch, 1024, grid, grid))))
    inside = layers.sam.patches(pixels)
    for index in (0, 2):  # windowed, global
        rows = empty(batch, side // 16, side // 16, 768)
        assert near(layers.sam.blocks[index].cost(inside).op_bytes, moved(lambda: sam.layers[index](rows)))  # noqa: B023


PREFILL = [(1, 100, 0, 0), (1, 913, 0, 0), (2, 50, 0, 0), (1, 64, 300, 0), (2, 100, 0, 1024), (1, 16, 100, 1024)]
DECODE = [(1, 1, 912, 0), (4, 1, 8191, 0), (1, 1, 500, 1024), (2, 1, 500, 1024)]


def block_call(network: Any, index: int, batch: int, tokens: int, past: int, slots: int) -> dict[str, Any]:
    """Return what a decoder layer is called with; the mask is there where transformers makes one."""
    eager = network.config.text_config._attn_implementation == "eager"
    chunk, static = tokens > 1 and past > 0, slots > 0 and not (past == 0 and tokens > 1)
    mask = None
    if eager:
        mask = empty(batch, 1, tokens, slots or past + tokens)
    elif chunk or static:
        mask = empty(batch, 1, tokens, slots or past + tokens, dtype=torch.bool)
    kv, angles = kv_cache(network, batch, past, slots), (empty(1, tokens, 128),) * 2
    hidden = empty(batch, tokens, 1280)
    return {"hidden_states": hidden, "attention_mask": mask, "position_embeddings": angles, CACHE: kv}


@pytest.mark.parametrize(("batch", "tokens", "past", "slots"), PREFILL + DECODE)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_and_dense_layers_move_what_torch_dispatches(
    attention: str, batch: int, tokens: int, past: int, slots: int
) -> None:
    network = true_network(attention, layers=2)
    layer = build_analytic_layers_from_config(network.config).layers[0]
    shape = CallShape(batch=batch, tokens=tokens, kv_len=past + tokens, kv_slots=slots, attention=attention)
    module = network.model.language_model.layers[0]
    call, again = (block_call(network, 0, batch, tokens, past, slots) for _ in range(2))
    assert near(layer.attention.cost(shape).op_bytes, moved(lambda: module.self_attn(**call)))
    assert near(layer.cost(shape).op_bytes, moved(lambda: module(**again)))
    flat = CallShape(batch=batch, tokens=tokens)
    assert near(layer.mlp.cost(flat).op_bytes, moved(lambda: module.mlp(empty(batch, tokens, 1280))))


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (4, 1), (16, 1), (1, 100), (1, 913)])
@pytest.mark.parametrize("experts", ["grouped_mm", "batched_mm"])
def test_experts_move_what_torch_dispatches(experts: str, batch: int, tokens: int) -> None:
    network = true_network(experts=experts, layers=2)
    layer = build_analytic_layers_from_config(network.config).layers[1].mlp
    shape, hits = CallShape(batch=batch, tokens=tokens, experts=experts), min(64, 6 * batch * tokens)
    block = network.model.language_model.layers[1].mlp
    network.config.text_config._experts_implementation = experts
    assert near(layer.cost(shape, hits).op_bytes, moved(lambda: block(empty(batch, tokens, 1280)), hits))


@pytest.mark.parametrize("tokens", [1, 7, 200])
@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_experts_on_the_cpu_move_what_torch_dispatches(experts: str, tokens: int) -> None:
    network = small_network(experts)
    network.set_experts_implementation(experts)
    described = build_analytic_layers_from_config(network.config).layers[1].mlp
    block = network.model.language_model.layers[1].mlp
    hidden = torch.randn(1, tokens, 256, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with torch.no_grad():
        hits = block.gate(hidden)[2].unique().numel()
    shape = CallShape(tokens=tokens, experts=experts)
    assert near(described.cost(shape, hits).op_bytes, moved(lambda: block(hidden), hits))


@pytest.mark.parametrize(("batch", "side"), [(1, 128), (2, 256), (3, 192)])
def test_a_small_vision_tower_moves_what_torch_dispatches(batch: int, side: int) -> None:
    network = small_network()
    layers = build_analytic_layers_from_config(network.config)
    tower, grid = network.model.vision_tower, side // 64
    pixels, tokens = CallShape(batch=batch, height=side, width=side), CallShape(batch=batch, tokens=grid * grid + 1)
    images = torch.zeros(batch, 3, side, side, dtype=torch.bfloat16)
    features = torch.zeros(batch, 96, grid, grid, dtype=torch.bfloat16)
    assert near(layers.sam.cost(pixels).op_bytes, moved(lambda: tower.sam_encoder(images)))
    assert near(layers.clip.cost(tokens).op_bytes, moved(lambda: tower.vision_encoder(features)))


def test_small_modules_move_what_torch_dispatches() -> None:
    network = true_network(layers=2)
    layers = build_analytic_layers_from_config(network.config)
    text, rows = network.model.language_model, CallShape(batch=2, tokens=50)
    positions = empty(1, 50, dtype=torch.long)
    moe, block = layers.layers[1].mlp, text.layers[1].mlp
    pairs: list[tuple[Layer, Callable[[], Any]]] = [
        (layers.norm, lambda: text.norm(empty(2, 50, 1280))),
        (layers.rotary, lambda: text.rotary_emb(empty(2, 50, 1280), positions)),
        (layers.lm_head, lambda: network.lm_head(empty(2, 50, 1280))),
        (layers.embed, lambda: text.embed_tokens(empty(2, 50, dtype=torch.long))),
        (layers.projector, lambda: network.model.multi_modal_projector(empty(2, 50, 2048))),
        ({c.name: c.description for c in moe.children(rows)}["gate"], lambda: block.gate(empty(100, 1280))),
    ]
    for layer, call in pairs:
        assert near(layer.cost(rows).op_bytes, moved(call)), layer


def test_a_page_moves_what_torch_dispatches_glue_included() -> None:
    network = true_network()
    layers = build_analytic_layers_from_config(network.config)
    request = PageRequest(mode="tiny", experts="batched_mm", decode_tokens=1)
    rows, kv, tokens = page_table(layers, request), kv_cache(network, 1), prompt_tokens(layers, request)
    scattered = 2 * tokens * 1280 * 2 + tokens
    embedded = layers.embed.cost(CallShape(tokens=tokens)).op_bytes

    def look() -> None:
        network.model.get_image_features(pixel_values=empty(1, 3, 512, 512))

    def forward(count: int) -> None:
        given = {"inputs_embeds": empty(1, count, 1280), CACHE: kv, "use_cache": True}
        network.lm_head(network.model.language_model(**given).last_hidden_state[:, -1:])

    assert near(page_total(rows, Stage.VISION).op_bytes, moved(look))
    assert near(page_total(rows, Stage.PREFILL).op_bytes - scattered - embedded, moved(lambda: forward(tokens)))
    assert near(page_total(rows, Stage.DECODE).op_bytes, moved(lambda: forward(1)))
