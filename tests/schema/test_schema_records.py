"""`Cost` adds, multiplies and refuses; codes on the wire never move."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.schema.records import (
    COST_FIELDS,
    DTYPE_BYTES,
    CallShape,
    Cost,
    LayerKind,
    Level,
    Stage,
    code_of,
    is_call,
    module_of,
)

amounts = st.integers(0, 2**62)
costs = st.builds(Cost, **dict.fromkeys(COST_FIELDS, amounts))


def test_cost_by_hand() -> None:
    cost = Cost(
        tensor_flops=600, vector_flops=40, weight_bytes=100, activation_bytes=20, kv_read_bytes=30, kv_write_bytes=10,
        tensor_flops_unmasked=900, op_bytes=5000,
    )  # fmt: skip
    assert cost.flops == 640  # 600 + 40: unmasked FLOPs are a second reading, not more work
    assert cost.min_bytes == 160  # 100 + 20 + 30 + 10: op_bytes is no lower bound
    assert cost.intensity == 4.0  # 640 / 160
    assert Cost().intensity == 0.0


@given(costs, costs, costs)
def test_addition_is_that_of_numbers(a: Cost, b: Cost, c: Cost) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + Cost() == a
    assert (a + b).flops == a.flops + b.flops
    assert (a + b).min_bytes == a.min_bytes + b.min_bytes


@given(costs, st.integers(0, 50))
def test_a_multiple_is_a_repeated_sum(cost: Cost, count: int) -> None:
    assert cost * count == sum((cost for _ in range(count)), Cost())


@pytest.mark.parametrize("name", COST_FIELDS)
@pytest.mark.parametrize("value", [-1, 1.0, True, None, "1"])
def test_a_cost_is_a_whole_number_and_not_negative(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Cost(**{name: value})  # type: ignore[arg-type]


def test_codes_on_the_wire_only_ever_grow_at_the_end() -> None:
    # Payloads hold positions, and old reports must still mean the same: never reorder, never remove.
    assert list(Stage)[:6] == ["vision", "prefill", "decode", "unknown", "mixed", "host"]
    assert list(Level)[:3] == ["stage", "layer", "op"]
    assert list(LayerKind)[:15] == [
        "patch_embed", "window_attention", "global_attention", "attention", "mlp", "experts", "shared_experts", "gate",
        "norm", "neck", "projector", "embed", "lm_head", "rest", "host",
    ]  # fmt: skip
    assert list(DTYPE_BYTES)[:5] == ["bfloat16", "float16", "float32", "tfloat32", "float8_e4m3fn"]
    assert [code_of(stage) for stage in Stage] == list(range(len(Stage)))


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("decoder.3.moe.experts", "decoder"), ("sam", "sam"), ("lm_head", "lm_head"), ("embed", "embed"),
        ("image_features", "model"), ("decode", "model"), ("decoders.1", "model"), ("", "model"),
        ("step.mixed", "model"), ("host.preprocessing", "host.preprocessing"), ("hosts", "model"),
    ],
)  # fmt: skip
def test_a_module_is_the_first_part_of_the_path(path: str, module: str) -> None:
    assert module_of(path) == module


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("decoder.0.mlp", True), ("model", True), ("lm_head", True), ("hosts", True), ("steps", True),
        ("decode", False), ("mixed", False), ("step.mixed", False), ("host.scheduling", False),
        ("decoder.0.rest", False), ("sampling", False),
    ],
)  # fmt: skip
def test_steps_and_host_work_are_no_calls(path: str, expected: bool) -> None:
    assert is_call(path) == expected


def test_a_shape_without_a_cache_attends_to_its_own_tokens() -> None:
    assert CallShape(batch=2, tokens=7).rows == 14  # 2 x 7
    assert CallShape(tokens=7).keys == CallShape(tokens=7).slots == 7
    grown = CallShape(tokens=1, kv_len=100, kv_slots=4096)
    assert (grown.keys, grown.slots) == (100, 4096)
    assert CallShape(kv_len=100).slots == 100
    assert CallShape(dtype="float32").itemsize == 4
