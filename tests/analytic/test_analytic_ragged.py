"""Sequences that are not alike: every cost follows from their sums, and equals the slow sum over the sequences."""

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from dsocr_nvtx.analytic import LlamaFlashAttention2, RoutedExperts, build_analytic_layers_from_config, ops
from dsocr_nvtx.analytic.experts import fused_block_rows
from dsocr_nvtx.analytic.layer import total
from dsocr_nvtx.analytic.norms import DeepseekV2RMSNorm
from dsocr_nvtx.analytic.padding import padding_cost
from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.schema.records import CallShape, Cost
from tests.analytic.settings import native, small_configs

Sequences = list[tuple[int, int]]
ONCE = ("weight_bytes", "op_bytes")
"""What sequences share in one call: weights are read once, and kernels are others."""


@st.composite
def batches(draw: st.DrawFn) -> Sequences:
    """Draw served steps: prefills, chunks that follow a context, and decodes, in any mixture."""
    each = st.tuples(st.integers(1, 40) | st.just(1), st.integers(0, 60))
    return [(rows, rows + past) for rows, past in draw(st.lists(each, min_size=1, max_size=6))]


def seen(rows: int, keys: int) -> int:
    """Return the pairs of a causal mask, one query after the other."""
    return sum(1 for query in range(keys - rows, keys) for key in range(keys) if key <= query)


@given(batches(), st.integers(1, 32))
def test_sums_are_those_over_the_sequences(sequences: Sequences, block: int) -> None:
    shape = CallShape.of_sequences(sequences, block=block)
    assert shape.sequences == len(sequences)
    assert shape.rows == sum(rows for rows, _ in sequences)
    assert shape.keys == shape.cached_keys == sum(keys for _, keys in sequences)
    assert shape.pairs == sum(seen(rows, keys) for rows, keys in sequences)
    assert shape.slots == sum(len(range(0, keys, block)) * block for _, keys in sequences)


@settings(max_examples=60)
@given(small_configs(), batches())
def test_a_served_step_costs_what_its_sequences_do(config: dict[str, Any], sequences: Sequences) -> None:
    network = build_analytic_layers_from_config(config)
    together = CallShape.of_sequences(sequences, dtype="bfloat16")
    apart = [CallShape(tokens=rows, kv_len=keys) for rows, keys in sequences]
    for layer in [*network.layers, network.norm, network.embed, network.rotary]:
        found, expected = layer.cost(together), total(layer.cost(shape) for shape in apart)
        assert without(found) == without(expected)
        assert found.weight_bytes <= expected.weight_bytes
    parts = {child.name: child for child in network.children(together)}
    assert parts["lm_head"].shape.rows == len(sequences)
    assert parts["embed"].shape.rows == together.rows


def without(cost: Cost) -> Cost:
    return evolve(cost, **dict.fromkeys(ONCE, 0))


@settings(max_examples=60)
@given(small_configs(), st.integers(1, 5), st.integers(1, 30), st.integers(0, 40))
def test_sequences_that_are_alike_cost_what_a_batch_does(
    config: dict[str, Any], batch: int, tokens: int, past: int
) -> None:
    network = build_analytic_layers_from_config(config)
    alike = CallShape(batch=batch, tokens=tokens, kv_len=past + tokens)
    told = CallShape.of_sequences([(tokens, past + tokens)] * batch)
    for names in ("sequences", "rows", "keys", "cached_keys", "pairs", "slots"):
        assert getattr(alike, names) == getattr(told, names)
    # A batch shares one table of rotary positions; an engine looks every row's up.
    table = 2 * (batch - 1) * tokens * network.rotary.head_dim * 2
    for layer in network.layers:
        found, expected = layer.attention.own(told), layer.attention.own(alike)
        assert evolve(found, op_bytes=0) == evolve(
            expected, op_bytes=0, activation_bytes=expected.activation_bytes + table
        )
        assert evolve(layer.mlp.cost(told), op_bytes=0) == evolve(layer.mlp.cost(alike), op_bytes=0)


def test_a_mixed_step_by_hand() -> None:
    attention = LlamaFlashAttention2(width=1280, heads=10, kv_heads=10, head_dim=128)
    # a prompt of 3, a chunk of 2 after 5, a decode step with 10 keys
    cost = attention.own(CallShape.of_sequences([(3, 3), (2, 7), (1, 10)], block=16))
    projections = 8 * 6 * 1280**2
    assert cost.tensor_flops == projections + 4 * 1280 * (6 + 13 + 10)  # 1 + 2 + 3; 6 + 7; 10
    assert cost.tensor_flops_unmasked == projections + 4 * 1280 * (9 + 14 + 10)
    assert cost.kv_read_bytes == 20 * 5120
    assert cost.kv_write_bytes == 6 * 5120
    # x, qkv and weights; result, hidden and weights; rotation of q and k with its angles; two new rows in and out;
    # q and the result, three blocks of keys and values; a position and a place per row
    moved = 6 * 1280 + 3 * 1280**2 + 6 * 3840 + 6 * 1280 + 1280**2 + 6 * 1280
    moved += 6 * (2 * 2560 + 128) + 2 * 6 * 2560 + 2 * 6 * 1280 + 2 * 48 * 1280
    assert cost.op_bytes == 2 * moved + 16 * 6


def test_blocks_of_a_paged_cache_are_read_whole() -> None:
    attention = LlamaFlashAttention2(width=1280, heads=10, kv_heads=10, head_dim=128)
    fine, coarse = (attention.own(CallShape.of_sequences([(1, 17), (1, 16)], block=size)) for size in (1, 16))
    assert coarse.op_bytes - fine.op_bytes == (32 + 16 - 33) * 5120
    assert evolve(coarse, op_bytes=0) == evolve(fine, op_bytes=0)


def test_fused_experts_read_their_weights_once_per_block() -> None:
    experts = RoutedExperts(width=1280, inner=896, experts=64, top_k=6)
    one = experts.own(CallShape.of_sequences([(1, 9)]))
    # six experts; six pairs of x, gate and up twice, their product twice, result; the sum; a choice and two places
    assert one.op_bytes == 41_287_680 + 2 * (6 * (2 * 1280 + 6 * 896) + 7 * 1280) + 6 * 16
    # 187.5 rows an expert in blocks of 128: two for nearly all of them; the rest is rows
    many = experts.own(CallShape.of_sequences([(2000, 2000)]))
    rows = 2 * (12000 * (2 * 1280 + 6 * 896) + 14000 * 1280) + 12000 * 16
    assert (many.op_bytes - rows) / many.weight_bytes == pytest.approx(2, abs=0.01)
    assert [fused_block_rows(rows) for rows in (1, 32, 33, 96, 97, 512, 513)] == [16, 16, 32, 32, 64, 64, 128]


@pytest.mark.parametrize(("rows", "block"), [(1, 16), (40, 3), (100, 16), (913, 64)])
def test_further_blocks_are_binomial(rows: int, block: int) -> None:
    from math import comb

    chance = 6 / 64
    weights = [comb(rows, n) * chance**n * (1 - chance) ** (rows - n) for n in range(rows + 1)]
    expected = 64 * sum(weight * (-(-n // block) - (n > 0)) for n, weight in enumerate(weights))
    assert ops.further_blocks(64, 6, rows, block) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert ops.further_blocks(4, 4, rows, block) == 4 * (-(-rows // block) - 1)


def test_served_kernels_fuse_norms_and_activations() -> None:
    network = build_analytic_layers_from_config(native())
    shape = CallShape.of_sequences([(5, 5), (1, 8)])
    dense = network.layers[0]
    assert DeepseekV2RMSNorm(width=1280).own(evolve(shape)).op_bytes == 2 * (4 * 6 * 1280 + 1280)
    assert dense.own(shape).op_bytes == 0  # its additions are in the norms
    assert dense.own(shape).vector_flops == 2 * 6 * 1280
    moved = 6 * 1280 + 2 * 1280 * 6848 + 6 * 2 * 6848 + 3 * 6 * 6848 + 6 * 6848 + 6848 * 1280 + 6 * 1280
    assert dense.mlp.cost(shape).op_bytes == 2 * moved


def test_logits_may_be_of_any_number_of_rows() -> None:
    network = build_analytic_layers_from_config(native())
    for shape, rows in (
        (CallShape(batch=3, tokens=4), 3), (CallShape(batch=3, tokens=4, logits=12), 12),
        (CallShape.of_sequences([(4, 4), (1, 9)]), 2), (CallShape.of_sequences([(4, 4), (1, 9)], logits=5), 5),
    ):  # fmt: skip
        head = {child.name: child for child in network.children(shape)}["lm_head"]
        assert head.description.cost(head.shape).tensor_flops == 2 * rows * 1280 * 129280


def test_padding_is_what_rows_for_nobody_cost() -> None:
    network = build_analytic_layers_from_config(native())
    shape = CallShape.of_sequences([(1, 900), (1, 950), (1, 1000)])
    waste, row = padding_cost(network, shape, 4), network.cost(CallShape(tokens=1))
    attended = 12 * 4 * 1280  # a row that attends to itself alone, in every layer
    assert waste.tensor_flops == row.tensor_flops - attended - 2 * 1280 * 129280
    assert (waste.kv_read_bytes, waste.kv_write_bytes) == (0, 0)
    assert padding_cost(network, shape, 3) == Cost()
    with pytest.raises(UsageError, match="not padded to 2"):
        padding_cost(network, shape, 2)


@pytest.mark.parametrize("sequences", [[], [(0, 4)], [(5, 4)]])
def test_a_sequence_has_rows_and_no_fewer_keys(sequences: Sequences) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        CallShape.of_sequences(sequences)


@pytest.mark.parametrize(
    "wrong", [{"sequences": 0}, {"sequences": 4}, {"keys": 2}, {"pairs": 2}, {"rectangle": 9}, {"slots": 13}]
)
def test_sums_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    sums = {"sequences": 2, "rows": 3, "keys": 14, "pairs": 12, "rectangle": 14, "slots": 16}
    assert CallShape.of_sums(**sums).rows == 3
    with pytest.raises(ValueError, match="each sequence has rows"):
        CallShape.of_sums(**(sums | wrong))


def test_torch_counts_the_same_sequence_by_sequence() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.analytic.networks import kv_cache, true_network
    from tests.analytic.test_analytic_flops import counted, text_call

    network, sequences = true_network(layers=2), [(50, 50), (16, 80), (1, 913), (1, 200), (3, 40)]
    layers = build_analytic_layers_from_config(network.config)
    expected = sum(counted(text_call(network, rows, kv_cache(network, 1, keys - rows))) for rows, keys in sequences)
    assert layers.cost(CallShape.of_sequences(sequences)).tensor_flops_unmasked == expected
