from types import SimpleNamespace
from typing import Any

import pytest

from dsocr_nvtx.analytic import DeepseekV2MoE, build_analytic_layers_from_config
from dsocr_nvtx.errors import Refused
from tests.analytic.settings import native, vendor


def as_object(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_object(inner) for key, inner in value.items()})
    return value


def test_the_released_model_has_the_parameters_of_its_checkpoint() -> None:
    layers = build_analytic_layers_from_config(native())
    assert layers.sam.parameters() == 95_569_152
    assert layers.clip.parameters() == 302_575_616
    assert layers.projector.parameters() == 2_622_720
    assert layers.vision.own_parameters() == 2_560  # newline and separator
    assert layers.embed.parameters() == layers.lm_head.parameters() == 165_478_400
    assert layers.layers[0].parameters() == 32_852_480
    assert {layer.parameters() for layer in layers.layers[1:]} == {233_720_320}
    moe = layers.layers[1].mlp
    assert isinstance(moe, DeepseekV2MoE)
    assert moe.shared_experts is not None
    assert (moe.gate.parameters(), moe.shared_experts.parameters()) == (81_920, 6_881_280)
    assert moe.experts.parameters() == 220_200_960
    assert layers.parameters() == 3_335_504_128


@pytest.mark.parametrize("nested", [True, False])
def test_the_vendors_configuration_describes_the_same_network(nested: bool) -> None:
    expected = build_analytic_layers_from_config(native())
    assert build_analytic_layers_from_config(vendor(nested)) == expected
    found = vendor(nested)
    assert build_analytic_layers_from_config(SimpleNamespace(**found)) == expected  # objects with dicts inside


def test_objects_and_dictionaries_are_read_alike() -> None:
    assert build_analytic_layers_from_config(as_object(native())) == build_analytic_layers_from_config(native())


def test_equal_layers_are_one_description() -> None:
    layers = build_analytic_layers_from_config(native())
    assert len({id(layer) for layer in layers.layers}) == 2
    assert len({id(block) for block in layers.sam.blocks}) == 2


@pytest.mark.parametrize(
    ("where", "field", "value", "says"),
    [
        ("text_config", "hidden_size", None, "is missing"),
        ("text_config", "vocab_size", -1, "less than 1"),
        ("text_config", "num_hidden_layers", 0, "less than 1"),
        ("text_config", "num_hidden_layers", 4097, "more than 4,096"),
        ("text_config", "vocab_size", 1 << 31, "is 2147483648, more than 2,147,483,647"),
        ("text_config", "hidden_size", 10**4000, "is a number of 13,288 bits, more than"),
        ("sam_config", "num_hidden_layers", 10**9, "more than 4,096"),
        ("sam_config", "downsample_channels", [1] * 4097, "has 4,097 entries, more than"),
        ("encoder_config", "num_hidden_layers", 10**9, "more than 4,096"),
        ("text_config", "intermediate_size", 6848.0, "not a whole number"),
        ("text_config", "moe_intermediate_size", "896", "not a whole number"),
        ("text_config", "n_shared_experts", -2, "less than 0"),
        ("text_config", "num_attention_heads", 7, "does not divide"),
        ("text_config", "num_key_value_heads", 3, "does not divide"),
        ("text_config", "num_experts_per_tok", 65, "more than n_routed_experts"),
        ("text_config", "num_attention_heads", True, "not a whole number"),
        ("text_config", "head_dim", 64, "hidden_size / num_attention_heads = 128"),
        ("text_config", "mlp_layer_types", ["dense"] * 3, "not 12 of"),
        ("text_config", "mlp_layer_types", ["dense"] * 11 + ["odd"], "not 12 of"),
        ("text_config", "use_mla", True, "latent attention"),
        ("text_config", "attention_bias", 1, "neither true nor false"),
        ("sam_config", "num_attention_heads", 7, "does not divide"),
        ("sam_config", "global_attn_indexes", [12], "from 0 to 11"),
        ("sam_config", "global_attn_indexes", 3, "not a list"),
        ("sam_config", "downsample_channels", [], "not a list of positive"),
        ("sam_config", "downsample_channels", [512, 896], "encoder after it is 1024 wide"),
        ("sam_config", "patch_size", [16, 8], "only squares"),
        ("sam_config", "image_size", 8, "smaller than one patch"),
        ("sam_config", "mlp_dim", None, "is missing"),
        ("encoder_config", "num_attention_heads", 5, "does not divide"),
        ("encoder_config", "hidden_act", "relu", "not one of"),
        ("encoder_config", "intermediate_size", 0, "less than 1"),
    ],
)
def test_a_wrong_field_is_refused_by_name(where: str, field: str, value: object, says: str) -> None:
    config = native()
    section = config["text_config"] if where == "text_config" else config["vision_config"][where]
    section[field] = value
    with pytest.raises(Refused) as refused:
        build_analytic_layers_from_config(config)
    assert says in str(refused.value)
    assert str(refused.value.where).endswith(f"{where}.{field}")


@pytest.mark.parametrize("field", ["vision_config", "text_config"])
def test_a_missing_part_is_refused_by_name(field: str) -> None:
    config = native()
    del config[field]
    with pytest.raises(Refused, match=rf"config\.{field}: is missing"):
        build_analytic_layers_from_config(config)


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(Refused, match="vision_config"):
        build_analytic_layers_from_config({"text_config": native()["text_config"], "vision_config": 3})
    with pytest.raises(Refused, match="is missing"):
        build_analytic_layers_from_config(None)
    part = vendor(nested=True)
    del part["vision_config"]["width"]["sam_vit_b"]["width"]
    with pytest.raises(Refused, match=r"sam_vit_b\.hidden_size: is missing"):
        build_analytic_layers_from_config(part)
