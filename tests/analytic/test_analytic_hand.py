"""Arithmetic by hand: the sum in the comment, the number in the assert."""

import pytest
from attrs import evolve

from dsocr_nvtx.analytic import DeepseekV2MLP, LlamaFlashAttention2, LmHead, MoEGate, RoutedExperts, ops
from dsocr_nvtx.analytic.clip import ClipAttention
from dsocr_nvtx.analytic.sam import SamProj
from dsocr_nvtx.analytic.sam_attention import SamAttention
from dsocr_nvtx.schema.records import CallShape, causal_pairs

TRUE_ATTENTION = LlamaFlashAttention2(width=1280, heads=10, kv_heads=10, head_dim=128)
TRUE_EXPERTS = RoutedExperts(width=1280, inner=896, experts=64, top_k=6)


def test_a_product_is_two_flops_per_multiply_add() -> None:
    assert ops.matmul_flops(3, 4, 5) == 120  # 2 * 3 * 4 * 5
    assert ops.conv2d_flops(4, 3, 8, 3) == 1728  # 2 * 4 positions * 8 * 3 * 9


def test_causal_pairs_are_a_triangle_on_a_rectangle() -> None:
    assert causal_pairs(4, 4) == 10  # 1 + 2 + 3 + 4
    assert causal_pairs(2, 7) == 13  # the two see 5 + 1 and 5 + 2
    assert causal_pairs(1, 8192) == 8192
    assert ops.prefix_pairs(2, 5) == 16  # 2 * 2, then 3 + 4 + 5


def test_prefill_attention() -> None:
    cost = TRUE_ATTENTION.cost(CallShape(tokens=913, kv_len=913))
    # four projections 2 * 913 * 1280^2 = 2,991,718,400 each; 4 * 1280 per pair, 913 * 914 / 2 = 417,241 pairs
    assert cost.tensor_flops == 4 * 2_991_718_400 + 4 * 1280 * 417_241 == 14_103_147_520
    assert cost.tensor_flops_unmasked == 4 * 2_991_718_400 + 4 * 1280 * 913 * 913 == 16_234_746_880
    assert cost.weight_bytes == 13_107_200  # 4 * 1280^2 * 2
    assert cost.kv_write_bytes == 4_674_560  # 913 * 5120
    # hidden in and out 2 * 913 * 1280, cosine and sine 2 * 913 * 128, two bytes each
    assert cost.activation_bytes == 5_142_016


def test_decode_attention_reads_its_cache_and_writes_one_token() -> None:
    cost = TRUE_ATTENTION.cost(CallShape(tokens=1, kv_len=8192))
    assert cost.tensor_flops == cost.tensor_flops_unmasked == 55_050_240  # 8 * 1280^2 + 4 * 1280 * 8192
    assert cost.kv_read_bytes == 41_943_040  # 8192 * 5120
    assert cost.kv_write_bytes == 5120  # 2 * 10 * 128 * 2
    # rotary 3 * 2560, scores 6 * 10 heads * 8192
    assert cost.vector_flops == 499_200


def test_a_dynamic_cache_is_rewritten_and_a_static_one_is_not() -> None:
    dynamic = CallShape(tokens=1, kv_len=1024)
    static = evolve(dynamic, kv_slots=1025)
    rewritten = TRUE_ATTENTION.cost(dynamic).op_bytes - TRUE_ATTENTION.cost(static).op_bytes
    # the concatenation moves 2 * 2 * 1024 * 2560 bytes; the static cache writes one row of keys and values (2 * 2 *
    # 2560, and 80 of indices), and attention reads one slot more (5120) under a mask (1025)
    assert rewritten == 10_485_760 - 10_240 - 80 - 5_120 - 1_025


def test_grouped_keys_are_projected_and_cached_once_per_group() -> None:
    grouped = LlamaFlashAttention2(width=8, heads=4, kv_heads=2, head_dim=2)
    assert grouped.parameters() == 192  # 8 * 8 twice, 8 * 4 twice
    assert grouped.kv_cache_bytes(CallShape(batch=3, tokens=1, kv_len=5)) == 240  # 2 * 3 * 5 * 4 * 2
    assert grouped.cost(CallShape(tokens=2)).tensor_flops == 864  # 2 * 2 * 192 + 4 * 8 * 3 pairs


def test_routed_experts() -> None:
    one = TRUE_EXPERTS.cost(CallShape(tokens=1))
    assert one.tensor_flops == 41_287_680  # 6 * 3 * 2 * 1280 * 896
    assert one.weight_bytes == 41_287_680  # six experts of 6,881,280 bytes
    assert one.vector_flops == 6 * 896 * 5 + 6 * 1280 + 5 * 1280
    batched = TRUE_EXPERTS.cost(CallShape(tokens=1, experts="batched_mm"))
    # the weights are read, written as a copy and read again: three times 41,287,680 is 123.9 MB; the rest is rows
    assert 0 < batched.op_bytes - 123_863_040 < 250_000


def test_experts_hit() -> None:
    assert ops.expected_experts(64, 6, 1) == 6
    assert TRUE_EXPERTS.distinct(4) == pytest.approx(20.83, abs=0.01)
    assert TRUE_EXPERTS.distinct(16) == pytest.approx(50.75, abs=0.01)
    assert TRUE_EXPERTS.distinct(913) == pytest.approx(64)
    shape = CallShape(batch=16, tokens=1)
    assert TRUE_EXPERTS.cost(shape, hit=6).weight_bytes == TRUE_EXPERTS.least_weight_bytes(shape) == 41_287_680
    assert TRUE_EXPERTS.cost(shape).weight_bytes == round(TRUE_EXPERTS.distinct(16) * 6_881_280)


def test_gate_computes_in_float32() -> None:
    cost = MoEGate(width=1280, experts=64, top_k=6).cost(CallShape(tokens=1))
    assert cost.tensor_flops == 163_840  # 2 * 1280 * 64
    # hidden 1280 * 2; logits 64 * 4; six weights and indices of 4 + 8
    assert cost.activation_bytes == 2560 + 256 + 72


def test_gated_feed_forward() -> None:
    cost = DeepseekV2MLP(width=1280, inner=6848).cost(CallShape(tokens=2))
    assert cost.tensor_flops == 105_185_280  # 2 * 3 * 2 * 1280 * 6848
    assert cost.weight_bytes == 52_592_640  # 26,296,320 * 2
    assert cost.vector_flops == 68_480  # 2 * 6848 * (4 + 1)


def test_the_head_over_one_row() -> None:
    cost = LmHead(width=1280, columns=129_280).cost(CallShape(tokens=1))
    assert cost.tensor_flops == cost.weight_bytes == 330_956_800  # 2 * 1280 * 129280, as FLOPs and as bytes
    assert cost.activation_bytes == 261_120  # (1280 + 129280) * 2


def test_clip_attention() -> None:
    cost = ClipAttention(width=1024, heads=16).cost(CallShape(tokens=257))
    assert cost.tensor_flops == 2_426_408_960  # 8 * 257 * 1024^2 + 4 * 1024 * 257^2
    # biases 4 * 257 * 1024; scale and softmax 6 * 16 * 257^2
    assert cost.vector_flops == 1_052_672 + 6_340_704


def test_sam_windows_count_their_padding() -> None:
    attention = SamAttention(width=768, heads=12, window=14, table=14)
    grid = CallShape(height=40, width=40)
    windows = attention.windows(grid)
    assert (windows.batch, windows.tokens) == (9, 196)  # 40 patches need 3 windows of 14, 42 in all
    rows = 9 * 196
    # projections 8 * rows * 768^2, scores 4 * 768 * rows * 196, relative positions 2 * rows * 768 * 28
    assert attention.cost(windows).tensor_flops == 9_461_587_968 == rows * (4_718_592 + 602_112 + 43_008)


def test_sam_shrinks_by_sixteen() -> None:
    proj = SamProj(channels=256, steps=(512, 1024))
    assert proj.grid(CallShape(height=80, width=80)) == (20, 20)
    assert proj.parameters() == 5_898_240  # 9 * 256 * 512 + 9 * 512 * 1024
    assert proj.cost(CallShape(height=64, width=64)).tensor_flops == 4_831_838_208  # 2*9*(1024*256*512+256*512*1024)
