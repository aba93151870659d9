"""The network with random weights: whole, repeatable, and of the size that the public checkpoint has."""

import pytest
import torch
from torch import nn
from transformers import UnlimitedOcrForConditionalGeneration

from dsocr_nvtx.run.model import random_model, tiny_config, true_config


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return random_model(tiny_config())


def test_the_true_configuration_has_the_checkpoints_parameters() -> None:
    with torch.device("meta"):
        network = UnlimitedOcrForConditionalGeneration(true_config())
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_335_504_128
    assert set(network.config.text_config.layer_types) == {"full_attention"}


def test_every_kind_of_layer_is_in_the_tiny_configuration() -> None:
    config = tiny_config()
    assert config.text_config.mlp_layer_types == ["dense", "sparse", "sparse"]
    sam = config.vision_config.sam_config
    assert 0 < len(sam.global_attn_indexes) < sam.num_hidden_layers


def test_buffers_are_those_of_a_normally_built_model(model: nn.Module) -> None:
    usual = dict(UnlimitedOcrForConditionalGeneration(tiny_config()).named_buffers())
    ours = dict(model.named_buffers())
    assert ours.keys() == usual.keys()
    for name, buffer in ours.items():
        assert buffer.dtype == usual[name].dtype
        assert torch.equal(buffer, usual[name]), name


def test_every_parameter_is_set(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.device.type == "cpu"
        values = parameter.detach()
        assert values.isfinite().all(), name
        # Norms are 1, biases 0; everything else is spread around 0, rel-pos and position tables too.
        if (distinct := set(values.flatten().tolist())) not in ({0.0}, {1.0}):
            assert len(distinct) > 10, name
            assert 0.01 < values.std() < 0.03, name


def test_half_precision_keeps_rotary_frequencies_whole() -> None:
    model = random_model(tiny_config(), dtype=torch.bfloat16)
    whole = {name for name, parameter in model.named_parameters() if parameter.dtype is not torch.bfloat16}
    assert all(name.endswith("mlp.gate.weight") for name in whole)  # routers, from transformers 5.24 on
    assert dict(model.named_buffers())["model.language_model.rotary_emb.inv_freq"].dtype == torch.float32


def test_weights_follow_the_seed(model: nn.Module) -> None:
    again, other = random_model(tiny_config()), random_model(tiny_config(), seed=1)
    key = "lm_head.weight"
    assert torch.equal(model.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(model.state_dict()[key], other.state_dict()[key])


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    random_model(tiny_config())
    assert torch.equal(before, torch.get_rng_state())


def test_a_device_in_use_by_default_does_not_matter() -> None:
    with torch.device("meta"):
        model = random_model(tiny_config())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert {buffer.device.type for buffer in model.buffers()} == {"cpu"}
