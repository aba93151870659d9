"""Hooked models that are copied, stored, moved or replicated: a copy is a bare model, and the original goes on."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dsocr_nvtx.hooks import hook
from dsocr_nvtx.schema.records import CostState
from tests.hooks.networks import attached, network

IDS = torch.arange(3, 10)[None]


def _stored(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": _stored,
}


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_a_bare_model_with_weights_of_its_own(way: str) -> None:
    model = network()
    expected = _logits(model)
    with hook(model) as session:
        made = COPIES[way](model)
        assert attached(made) == []
        assert torch.equal(_logits(made), expected)
        assert session.stats.records == []
        made.lm_head.weight.zero_()
        assert not _logits(made).any()
        assert torch.equal(_logits(model), expected)
        assert [record.path for record in session.stats.records].count("lm_head") == 1
    assert attached(model) == []
    with hook(made) as other:
        _logits(made)
    assert [record.path for record in other.stats.records].count("lm_head") == 1
    assert session.errors == other.errors == []


@pytest.mark.parametrize("way", COPIES)
def test_a_part_of_a_hooked_model_is_copied_bare_as_well(way: str) -> None:
    model = network()
    with hook(model) as session:
        layer = COPIES[way](model.model.language_model.layers[1])
        assert attached(layer) == []
        layer.input_layernorm(torch.ones(1, 1, 64))
    assert session.stats.records == []


def test_state_and_attributes_are_those_of_a_bare_model() -> None:
    model = network()
    before = [{*module.__dict__} for module in model.modules()]
    names = list(model.state_dict())
    with hook(model):
        assert list(model.state_dict()) == names
    assert [{*module.__dict__} for module in model.modules()] == before


def test_a_replica_of_data_parallelism_is_bare() -> None:
    """torch.nn.parallel.replicate copies each module's attributes as they lie."""
    norm = network().model.language_model.norm
    model = network()
    norm = model.model.language_model.norm
    with hook(model) as session:
        replica = norm._replicate_for_data_parallel()
        replica.weight = torch.full_like(norm.weight, 2.0)
        assert torch.equal(replica(torch.ones(1, 1, 64)), torch.full((1, 1, 64), 2.0).mul(1 / (1 + 1e-6) ** 0.5))
    assert session.stats.records == []


@pytest.mark.parametrize("inside", [False, True])
def test_weights_of_another_type_are_counted_as_they_lie(inside: bool) -> None:
    """`model.to` before the block or in it: two bytes for each weight, or a cost that is said not to be known."""
    model = network()
    text = model.config.text_config
    if not inside:
        model.to(torch.bfloat16)
    with hook(model) as session:
        if inside:
            model.to(torch.bfloat16)
        _logits(model)
    heads = [record for record in session.stats.records if record.path == "lm_head"]
    weights = 2 * text.vocab_size * text.hidden_size
    assert [r.cost.weight_bytes for r in heads] == [weights] or {r.state for r in heads} <= {
        CostState.UNKNOWN, CostState.CONTRADICTED,
    }  # fmt: skip
    if inside and heads[0].state is not CostState.KNOWN:
        assert session.errors
