"""What must hold for any network and any call, whatever the formulas."""

from attrs import evolve
from hypothesis import given, settings

from dsocr_nvtx.analytic import Layer, build_analytic_layers_from_config, walk
from dsocr_nvtx.analytic.layer import total
from dsocr_nvtx.schema.records import COST_FIELDS, CallShape
from tests.analytic.settings import image_shapes, small_configs, text_shapes

ADDITIVE = tuple(name for name in COST_FIELDS if name != "activation_bytes")
few = settings(max_examples=40, deadline=None)


def check_sums(layer: Layer, shape: CallShape, hit: int | None = None) -> None:
    for node in walk("", layer, shape):
        parts = [child.description.cost(child.shape, hit) for child in node.description.children(node.shape)]
        summed = total([node.description.own(node.shape, hit), *parts])
        cost = node.description.cost(node.shape, hit)
        assert [getattr(cost, name) for name in ADDITIVE] == [getattr(summed, name) for name in ADDITIVE]
        assert cost.activation_bytes == node.description.io_bytes(node.shape)


@few
@given(small_configs(), text_shapes(), image_shapes())
def test_a_cost_is_its_own_part_and_its_childrens(config: dict[str, object], text: CallShape, image: CallShape) -> None:
    layers = build_analytic_layers_from_config(config)
    check_sums(layers, text)
    check_sums(layers, text, hit=1)
    check_sums(layers.vision, image)


@few
@given(small_configs(), text_shapes())
def test_a_mask_never_adds_work(config: dict[str, object], shape: CallShape) -> None:
    layers = build_analytic_layers_from_config(config)
    for node in walk("", layers, shape):
        cost = node.description.cost(node.shape)
        assert cost.tensor_flops <= cost.tensor_flops_unmasked
        if shape.tokens == 1 and not shape.kv_slots:
            assert cost.tensor_flops == cost.tensor_flops_unmasked


@few
@given(small_configs(), text_shapes())
def test_operators_move_at_least_the_lower_bound(config: dict[str, object], shape: CallShape) -> None:
    layers = build_analytic_layers_from_config(config)
    for node in walk("", layers, shape):
        if not node.description.children(node.shape) and node.kind != "attention":
            cost = node.description.own(node.shape)
            assert cost.op_bytes >= cost.min_bytes - cost.weight_bytes * (node.kind == "gate")


@few
@given(small_configs(), text_shapes())
def test_a_prompt_in_chunks_needs_the_same_pairs_and_writes_the_same_keys(
    config: dict[str, object], shape: CallShape
) -> None:
    layers = build_analytic_layers_from_config(config)
    whole = CallShape(batch=shape.batch, tokens=shape.tokens, kv_len=shape.tokens)
    first = max(1, shape.tokens // 3)
    cuts = [(first, first), (shape.tokens - first, shape.tokens)] if shape.tokens > 1 else [(1, 1)]
    for layer in layers.layers:
        chunks = total(layer.cost(evolve(whole, tokens=tokens, kv_len=keys)) for tokens, keys in cuts)
        once = layer.cost(whole)
        assert (chunks.tensor_flops, chunks.kv_write_bytes) == (once.tensor_flops, once.kv_write_bytes)
        assert chunks.vector_flops == once.vector_flops


@few
@given(small_configs(), text_shapes())
def test_sequences_are_independent_except_for_weights(config: dict[str, object], shape: CallShape) -> None:
    layers = build_analytic_layers_from_config(config)
    alone, all_of_them = layers.cost(evolve(shape, batch=1)), layers.cost(shape)
    for name in ("tensor_flops", "tensor_flops_unmasked", "vector_flops", "kv_read_bytes", "kv_write_bytes"):
        if name == "vector_flops":  # the rotary table is shared
            shared = layers.rotary.cost(evolve(shape, batch=1)).vector_flops
            assert all_of_them.vector_flops - shared == (alone.vector_flops - shared) * shape.batch
        else:
            assert getattr(all_of_them, name) == getattr(alone, name) * shape.batch
    assert alone.weight_bytes <= all_of_them.weight_bytes <= alone.weight_bytes * shape.batch


@few
@given(small_configs(), text_shapes())
def test_readings_are_those_of_the_cost(config: dict[str, object], shape: CallShape) -> None:
    layers = build_analytic_layers_from_config(config)
    cost = layers.cost(shape)
    assert layers.forward_tensor_core_flops(shape) == cost.tensor_flops / 1e12
    assert layers.forward_cuda_core_flops(shape) == cost.vector_flops / 1e12
    assert layers.forward_cal_io(shape) == cost.min_bytes / 1e12
    assert layers.forward_arithmetic_intensity(shape) == cost.intensity
    assert layers.forward_memory_weight(shape) == layers.parameters() * shape.itemsize / 1e9
    assert layers.forward_memory_activation(shape) > 0
    assert (layers.forward_memory_kvcache(shape) > 0) == (shape.kv_len > 0)
