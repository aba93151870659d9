"""What the hooks report for a run is what torch counts in that run."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dsocr_nvtx.hooks import hook
from dsocr_nvtx.run.model import CACHE_ARGUMENT
from dsocr_nvtx.schema.records import COST_FIELDS, Level
from tests.hooks.networks import network, run


@pytest.fixture(scope="module")
def model() -> Any:
    return network(attention="eager", experts="eager")


def test_hooks_count_what_torch_counts(model: Any) -> None:
    """Prefill and three decode steps, eager experts and attention: exactly."""
    with hook(model) as session, FlopCounterMode(display=False) as counter:
        run(model, session, tokens=4)
    assert sum(r.cost.tensor_flops_unmasked for r in session.stats.records) == counter.get_total_flops()


@pytest.mark.parametrize("name", [name for name in COST_FIELDS if name != "activation_bytes"])
def test_levels_tell_the_same_costs(model: Any, name: str) -> None:
    """What is not hooked at a coarse level lies in the range around it. Lower bounds of activations do not add up."""
    totals = []
    for level in Level:
        with hook(model, level=level) as session:
            run(model, session, tokens=3)
        totals.append(sum(getattr(r.cost, name) for r in session.stats.records))
    assert totals == [totals[0]] * len(totals)
    assert totals[0] > 0


def test_kv_bytes_are_those_of_the_cache(model: Any) -> None:
    with hook(model) as session:
        run(model, session, tokens=5)
    records = session.stats.records
    text = model.config.text_config
    per_token = 2 * text.num_key_value_heads * text.head_dim * 4  # keys and values, float32
    attention = [r for r in records if r.path == "decoder.1.attention"]
    assert [r.cost.kv_write_bytes for r in attention] == [per_token * r.tokens for r in attention]
    assert [r.cost.kv_read_bytes for r in attention] == [per_token * r.kv_len for r in attention]
    steps = [step for step in session.stats.decoder_steps() if step["layer_idx"] == 1]
    assert [step["kv_bytes"] for step in steps] == [per_token * r.kv_len for r in attention]


def test_the_experts_implementation_is_read_at_every_call(model: Any) -> None:
    with hook(model) as session, torch.no_grad():
        for experts in ("eager", "batched_mm", "grouped_mm"):
            model.set_experts_implementation(experts)
            model(input_ids=torch.ones(1, 3).long())
    model.set_experts_implementation("eager")
    calls = [r for r in session.stats.records if r.path == "decoder.1.moe.experts"]
    assert [r.shape.experts for r in calls] == ["eager", "batched_mm", "grouped_mm"]
    # batched_mm copies every chosen expert before it multiplies
    assert calls[1].cost.op_bytes > calls[0].cost.op_bytes
    assert len({r.cost.tensor_flops for r in calls}) == 1


def test_a_call_without_a_cache_moves_no_kv(model: Any) -> None:
    with hook(model) as session, torch.no_grad():
        model(input_ids=torch.ones(1, 3).long(), use_cache=False)
    assert {(r.cost.kv_read_bytes, r.cost.kv_write_bytes, r.kv_len) for r in session.stats.records} == {(0, 0, 0)}


def test_logits_of_every_row_cost_more_than_of_the_last(model: Any) -> None:
    with hook(model) as session, torch.no_grad():
        model(input_ids=torch.ones(1, 6).long())
        model(input_ids=torch.ones(1, 6).long(), logits_to_keep=1)
    everything, last = (r for r in session.stats.records if r.path == "lm_head")
    assert everything.cost.tensor_flops == 6 * last.cost.tensor_flops


@pytest.mark.parametrize("capacity", [64, 100])
def test_a_static_cache_is_counted_without_asking_the_device(model: Any, capacity: int) -> None:
    from transformers import StaticCache

    cache = StaticCache(config=model.config.text_config, max_cache_len=capacity)
    with hook(model) as session, torch.no_grad():
        for tokens in (5, 1, 1):
            model(input_ids=torch.ones(1, tokens).long(), **{CACHE_ARGUMENT: cache})
    calls = [r.shape for r in session.stats.records if r.path == "decoder.0.attention"]
    # The slots are made by the first update, so the prefill reads what it wrote.
    assert [(c.tokens, c.kv_len) for c in calls] == [(5, 5), (1, 6), (1, 7)]
    assert [c.kv_slots for c in calls[1:]] == [capacity, capacity]


def test_records_fill_the_plans_lists(model: Any) -> None:
    with hook(model) as session:
        run(model, session, tokens=3)
    layers = len(model.model.language_model.layers)
    decoder, vision = session.stats.decoder_steps(), session.stats.vision_steps()
    assert [step["layer_idx"] for step in decoder] == list(range(layers)) * 3
    assert {*decoder[0]} >= {"layer_idx", "stage", "flops_tflops", "io_tb", "kv_gb"}
    assert [step["module"] for step in vision] == ["image_encoder_vit", "vit_model", "mlp_projector"] * 2
    assert {*vision[0]} >= {"module", "flops_tflops", "io_tb", "act_gb", "w_gb"}
    first = next(r for r in session.stats.records if r.path == "decoder.0")
    inside = [r for r in session.stats.records if first.host_start_ns <= r.host_start_ns <= first.host_end_ns]
    assert decoder[0]["flops"] == sum(r.cost.flops for r in inside)
