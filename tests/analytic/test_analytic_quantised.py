"""Quantised weights are counted as their configuration stores them, or refused by name."""

from copy import deepcopy
from math import ceil
from typing import Any

import pytest

from dsocr_nvtx.analytic import DeepseekOCRModel, build_analytic_layers_from_config
from dsocr_nvtx.analytic.build import said_quantisation
from dsocr_nvtx.analytic.matrices import is_named
from dsocr_nvtx.analytic.stored import named_parts
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.records import CallShape
from tests.analytic.settings import native, vendor

LINEAR = {  # the released decoder's linear layers, as (inputs, outputs)
    "attention": [(1280, 1280)] * 4,
    "mlp": [(1280, 6848)] * 2 + [(6848, 1280)],
    "moe.experts": ([(1280, 896)] * 2 + [(896, 1280)]) * 64,
    "moe.shared_experts": [(1280, 1792)] * 2 + [(1792, 1280)],
}


def stored(quantisation: dict[str, Any], *, config: dict[str, Any] | None = None, field: str = "quantization_config"):  # type: ignore[no-untyped-def]
    """Return a network's bytes by path, of the parts that are not plain."""
    network = network_of(quantisation, config, field)
    return {path: part.stored_bytes for path, part in named_parts(network) if part.stored_bytes is not None}


def network_of(
    quantisation: dict[str, Any], config: dict[str, Any] | None = None, field: str = "quantization_config"
) -> DeepseekOCRModel:
    return build_analytic_layers_from_config({**(config or vendor(nested=True)), field: quantisation})


def decoder(found: dict[str, int]) -> dict[str, int]:
    """Return the bytes of the kinds of parts of the decoder's layers, of layers 0 and 3."""
    return {
        path.split(".", 2)[2]: size for path, size in found.items() if path.startswith(("decoder.0.", "decoder.3."))
    }


def test_awq_packs_the_decoders_linear_layers() -> None:
    found = stored({"quant_method": "awq", "bits": 4, "group_size": 128})
    # int32 words of eight weights, zeros and float16 scales per group of 128 inputs; 6848 inputs have 54 groups
    assert decoder(found) == {
        name: sum(i * o // 2 + ceil(i / 128) * (o // 2 + 2 * o) for i, o in sizes) for name, sizes in LINEAR.items()
    }
    assert set(found) == {path for path in found if path.startswith("decoder.")}  # vision, embeddings and head stay
    assert not any("gate" in path.split(".") for path in found)


@pytest.mark.parametrize(("bits", "group"), [(4, 128), (8, 32), (3, 64), (2, -1)])
def test_gptq_packs_with_scales_zeros_and_order(bits: int, group: int) -> None:
    found = stored({"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": True})

    def size(inner: int, columns: int) -> int:
        groups = ceil(inner / group) if group > 0 else 1
        return 4 * (inner * bits // 32 * columns + groups * (columns * bits // 32) + inner) + groups * columns * 2

    assert decoder(found) == {name: sum(size(*one) for one in sizes) for name, sizes in LINEAR.items()}
    assert "lm_head" not in found
    assert "lm_head" in stored({"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True})


def test_gptq_has_rules_for_modules() -> None:
    whole = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    rules = {r"+:.*\.o_proj": {"bits": 8, "group_size": -1}, r"-:model\.layers\.\d+\.self_attn": {}, "lm_head": {}}
    found, plain = stored({**whole, "dynamic": rules}), 3 * 1280 * 1280 * 2
    assert found["decoder.0.attention"] == plain + 1280 * 320 * 4 + 320 * 4 + 1280 * 4 + 1280 * 2
    assert found["decoder.0.mlp"] == stored(whole)["decoder.0.mlp"]
    assert stored({**whole, "dynamic": {}}) == stored({**whole, "dynamic": None}) == stored(whole)


def test_gptq_packs_only_the_listed_layers_of_a_block() -> None:
    listed = [["self_attn.q_proj", "self_attn.k_proj"], ["self_attn.v_proj"]]
    found = stored({"quant_method": "gptq", "bits": 4, "group_size": 128, "modules_in_block_to_quantize": listed})
    three, plain = 3 * (1280 * 160 * 4 + 10 * 160 * 4 + 1280 * 4 + 10 * 1280 * 2), 1280 * 1280 * 2
    assert {path.split(".", 2)[2] for path in found} == {"attention"}
    assert found["decoder.0.attention"] == three + plain


@pytest.mark.parametrize(("nested", "block"), [(False, 64), (True, 64), (True, 128)])
def test_four_bits_of_bitsandbytes(nested: bool, block: int) -> None:
    found = stored({
        "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": nested, "bnb_4bit_blocksize": block,
    })  # fmt: skip

    def size(inner: int, columns: int) -> int:
        blocks = inner * columns // block
        scales = blocks + 4 * ceil(blocks / 256) + 4 * 256 + 4 if nested else 4 * blocks
        return inner * columns // 2 + scales + 4 * 16

    assert decoder(found) == {name: sum(size(*one) for one in sizes) for name, sizes in LINEAR.items()}
    # every linear layer: also those of vision, with their biases in bfloat16; the head is what it was
    assert found["sam.0.attention"] == size(768, 2304) + size(768, 768) + 2 * (2304 + 768 + 2 * 27 * 64)
    assert found["clip.5.mlp"] == size(1024, 4096) + size(4096, 1024) + 2 * (4096 + 1024)
    assert found["projector"] == size(2048, 1280) + 2 * 1280
    assert "lm_head" not in found
    assert "embed" not in found


def test_eight_bits_of_bitsandbytes_and_what_is_skipped() -> None:
    whole = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
    found = stored(whole)
    assert decoder(found) == {name: sum(i * o + 4 * o for i, o in sizes) for name, sizes in LINEAR.items()}
    # a list stands in place of the head, as in the library
    some = stored({**whole, "llm_int8_skip_modules": ["sam_model", "model.vision_model", "layers.3.mlp", "o_proj"]})
    assert some["lm_head"] == 1280 * 129280 + 4 * 129280
    assert not any(path.startswith(("sam", "clip.")) for path in some)
    assert "decoder.3.moe.experts" not in some
    assert some["decoder.3.attention"] == 3 * (1280 * 1280 + 4 * 1280) + 2 * 1280 * 1280


def test_bitsandbytes_leaves_the_librarys_own_experts() -> None:
    found = stored({"quant_method": "bitsandbytes", "load_in_4bit": True}, config=native())
    assert "decoder.3.moe.experts" not in found
    assert "decoder.3.moe.shared_experts" in found


@pytest.mark.parametrize("layout", ["native", "vendor"])
@pytest.mark.parametrize(("block", "scale"), [([128, 128], 4), ([64, 32], 1), (None, 4)])
def test_fp8_in_blocks(layout: str, block: list[int] | None, scale: int) -> None:
    config = native() if layout == "native" else vendor(nested=True)
    said = {"quant_method": "fp8", "weight_block_size": block, "scale_fmt": "ue8m0" if scale == 1 else "float"}
    found = stored(said, config=config)

    def size(inner: int, columns: int) -> int:
        blocks = ceil(columns / block[0]) * ceil(inner / block[1]) if block else 1
        return inner * columns + scale * blocks

    assert decoder(found) == {name: sum(size(*one) for one in sizes) for name, sizes in LINEAR.items()}
    assert found["clip.0.mlp"] == size(1024, 4096) + size(4096, 1024) + 2 * (4096 + 1024)
    assert "lm_head" not in found


def test_fp8_leaves_what_is_ignored() -> None:
    ignored = {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "ignored_layers": ["model.layers.0", "vision_model"],
    }
    found = stored(ignored)
    assert not any(path.startswith(("decoder.0.", "clip", "lm_head")) for path in found)
    assert {"decoder.1.attention", "sam.0.mlp"} <= set(found)
    listed = stored({"quant_method": "fp8", "modules_to_not_convert": ["experts"], "activation_scheme": "static"})
    assert "decoder.1.moe.experts" not in listed
    assert listed["lm_head"] == 1280 * 129280 + 2 * 4  # a list stands in place of the head; two scales
    assert stored({"quant_method": "fp8", "dequantize": True}) == {}


@pytest.mark.parametrize("field", ["quantization", "quantization_config"])
@pytest.mark.parametrize(("bits", "group"), [(4, 64), (8, 32), (6, 64), (3, 128)])
def test_mlx_packs_the_language_model(field: str, bits: int, group: int) -> None:
    found = stored({"group_size": group, "bits": bits}, field=field)

    def size(inner: int, columns: int) -> int:
        return (
            inner * columns * bits // 8 + 2 * 2 * (inner // group) * columns
            if inner % group == 0
            else 2 * inner * columns
        )

    assert decoder(found) == {name: sum(size(*one) for one in sizes) for name, sizes in LINEAR.items()}
    assert found["embed"] == found["lm_head"] == size(1280, 129280)
    assert not any(path.startswith(("sam", "clip")) for path in found)


def test_mlx_stores_modules_in_their_own_bits() -> None:
    found = stored({
        "group_size": 64, "bits": 4,
        "language_model.model.embed_tokens": {"group_size": 64, "bits": 8},
        "language_model.lm_head": False,
        "language_model.model.layers.3.mlp.switch_mlp.down_proj": {"group_size": 32, "bits": 6},
        "language_model.model.layers.2.self_attn.q_proj": {"bits": 8},
    }, field="quantization")  # fmt: skip
    assert found["embed"] == 1280 * 129280 + 4 * 20 * 129280
    assert "lm_head" not in found
    outer, inner = 1280 * 896 // 2 + 4 * 20 * 896, 1280 * 896 * 6 // 8 + 4 * 28 * 1280
    assert found["decoder.3.moe.experts"] == 64 * (2 * outer + inner)
    four, eight = 1280 * 1280 // 2 + 4 * 20 * 1280, 1280 * 1280 + 4 * 20 * 1280
    assert found["decoder.2.attention"] == 3 * four + eight


def test_experts_read_what_those_hit_weigh() -> None:
    network = network_of({"quant_method": "awq", "bits": 4, "group_size": 128})
    one = 3 * 1280 * 896 // 2 + 2 * 10 * (448 + 1792) + 7 * (640 + 2560)
    experts = network.layers[3].mlp.experts  # type: ignore[union-attr]
    assert experts.own(CallShape(tokens=1)).weight_bytes == 6 * one
    assert experts.own(CallShape(tokens=9), hit=17).weight_bytes == 17 * one
    plain = build_analytic_layers_from_config(vendor(nested=True)).layers[3].mlp.experts  # type: ignore[union-attr]
    saved = plain.own(CallShape(tokens=1)).op_bytes - experts.own(CallShape(tokens=1)).op_bytes
    assert saved == 6 * (3 * 1280 * 896 * 2 - one)


def test_an_embedding_reads_its_rows_as_they_lie() -> None:
    network = network_of({"group_size": 64, "bits": 4}, field="quantization")
    assert network.embed.own(CallShape(tokens=5)).weight_bytes == 5 * (1280 // 2 + 4 * 20)


def test_memory_is_the_sum_of_what_lies_there() -> None:
    network, config = network_of({"quant_method": "awq", "bits": 4, "group_size": 128}), vendor(nested=True)
    plain = build_analytic_layers_from_config(config)
    packed = {path: part for path, part in named_parts(network) if part.stored_bytes is not None}
    whole = 2 * (plain.parameters() - sum(part.own_parameters() for part in packed.values()))
    assert network.resident_bytes(2) == whole + sum(part.stored_bytes or 0 for part in packed.values())
    assert network.parameters() == plain.parameters()
    assert network.cost(CallShape(tokens=7)).tensor_flops == plain.cost(CallShape(tokens=7)).tensor_flops


@pytest.mark.parametrize(
    ("quantisation", "says"),
    [
        ({"quant_method": "compressed-tensors"}, r"quant_method: is 'compressed-tensors'"),
        ({"quant_method": "torchao"}, "is 'torchao'"),
        ({}, "is None"),
        ({"quant_method": "bitsandbytes"}, "both set or both not"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_has_fp16_weight": True}, "eight bits"),
        ({"quant_method": "awq", "bits": 8, "group_size": 128}, "AWQ packs four"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "version: is 'gemv'"),
        ({"quant_method": "gptq", "bits": 5}, "bits: is 5, not one of 2, 3, 4, 8"),
        ({"quant_method": "gptq", "group_size": 128}, "bits: is missing"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "is 'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"-:(": {}}}, "no name and no pattern"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:x": {"bits": 7}}}, r"dynamic\.\+:x\.bits: is 7"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"x": 8}}, "not a configuration"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "less than 1"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "not two numbers"),
        ({"quant_method": "fp8", "expert_dtype": "fp4"}, "is 'fp4'"),
        ({"quant_method": "fp8", "modules_to_not_convert": ["("]}, "no name and no pattern"),
        ({"quant_method": "fp8", "modules_to_not_convert": "lm_head"}, "not a list of modules"),
        ({"bits": 4, "group_size": 64, "mode": "mxfp4"}, "is 'mxfp4'"),
        ({"bits": 7, "group_size": 64}, "bits: is 7, not one of 2, 3, 4, 5, 6, 8"),
        ({"bits": 4, "group_size": -1}, "group_size: is -1, less than 1"),
        ({"bits": 4, "group_size": 64, "layers.0.self_attn.q_proj": {"group_size": 0}}, "less than 1"),
        ({"bits": 4, "group_size": 64, "layers.0.self_attn.q_proj": 8}, "neither a module's bits"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(quantisation: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        network_of(quantisation)
    assert "quantization_config" in str(refused.value)


def test_packed_experts_in_one_module_are_refused() -> None:
    with pytest.raises(Refused, match="experts in one module"):
        network_of({"quant_method": "awq", "bits": 4, "group_size": 128}, native())


def test_a_scheme_is_said_in_words_wherever_it_stands() -> None:
    inside = vendor(nested=True)
    inside["language_config"]["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": -1}
    assert said(inside) == "gptq, 4 bits, one group"
    assert said(native()) is None
    both = {"group_size": 64, "bits": 4}
    assert said({**vendor(nested=True), "quantization": both, "quantization_config": deepcopy(both)}) == (
        "MLX, 4 bits, groups of 64"
    )


def said(config: dict[str, Any]) -> str | None:
    return said_quantisation(config, build_analytic_layers_from_config(config))


@pytest.mark.parametrize(
    ("quantisation", "names"),
    [
        ({"quant_method": "fp8", "modules_to_not_convert": ["visual", "lm_head", "merger"]}, "visual, merger"),
        ({"group_size": 64, "bits": 4, "layers.99.mlp.up_proj": False}, r"layers\.99\.mlp\.up_proj"),
    ],
)
def test_names_that_no_part_has_are_passed_over_and_said(quantisation: dict[str, Any], names: str) -> None:
    config = {**vendor(nested=True), "quantization_config": quantisation}
    assert str(said(config)).endswith(f"; its lists name no part of this network by {names}")


def test_lists_name_modules_what_they_lie_in_and_the_ends_of_their_names() -> None:
    name = "model.layers.11.mlp.experts.3.gate_proj"
    for pattern in ("model.layers.11", "gate_proj", r"model.layers.\d+.mlp", "model.layers.", "3.gate_proj", name):
        assert is_named(name, [pattern], anywhere=True), pattern
        assert is_named(name, [pattern], anywhere=False), pattern
    for pattern in ("layers.11.mlp", "experts", "mlp"):
        assert is_named(name, [pattern], anywhere=True), pattern
        assert not is_named(name, [pattern], anywhere=False), pattern
    for pattern in ("model.layers.1", "mlp.gate", "lm_head", "ayers.11.mlp"):
        assert not is_named(name, [pattern], anywhere=True), pattern
