"""Observed experts: counts equal the router's choices, at every level, and are told in marks and tables."""

import gc
from collections import defaultdict
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from transformers import DynamicCache, StaticCache

from dsocr_nvtx.analytic import build_analytic_layers_from_config
from dsocr_nvtx.analytic.observed import own_calls
from dsocr_nvtx.analytic.summary import run_summary
from dsocr_nvtx.hooks import HookSession, get_analytic_run_stats, hook
from dsocr_nvtx.hooks.observe import ExpertsObserver
from dsocr_nvtx.run.model import CACHE_ARGUMENT, random_model, tiny_config
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.payload import parse_experts_mark
from dsocr_nvtx.schema.records import CallShape, ExpertsCall, Stage
from dsocr_nvtx.schema.tables import EXPERTS, RANGES
from tests.builders.emitters import Listener
from tests.builders.vendor import vendor_model
from tests.hooks.networks import run

pytestmark = pytest.mark.usefixtures("recorder")

CONFIG = tiny_config()
MODEL: Any = random_model(CONFIG)
TOP_K = 2
EXPERT_BYTES = 3 * 64 * 32 * 4


def _generate(ids: torch.Tensor, steps: int = 2, **options: Any) -> tuple[HookSession, dict[int, list[torch.Tensor]]]:
    """Return the session of a prompt and decode steps, and every layer's indices as its router returned them."""
    chosen: dict[int, list[torch.Tensor]] = defaultdict(list)
    moes = [(i, layer.mlp) for i, layer in enumerate(MODEL.model.language_model.layers) if hasattr(layer.mlp, "gate")]
    handles = [
        moe.gate.register_forward_hook(lambda _m, _a, out, i=i: chosen[i].append(out[2].clone())) for i, moe in moes
    ]
    kv = DynamicCache(config=CONFIG.text_config)
    try:
        with torch.inference_mode(), hook(MODEL, observe_experts=True, **options) as session:
            for stage, given in [("prefill", ids), *[("decode", ids[:, :1])] * steps]:
                with session.step(stage):
                    MODEL(input_ids=given, **{CACHE_ARGUMENT: kv}, use_cache=True, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    assert session.errors == []
    return session, chosen


def _ids(batch: int, tokens: int = 12) -> torch.Tensor:
    return torch.randint(2, 400, (batch, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("level", ["op", "layer", "stage"])
def test_counts_are_the_routers_choices(level: str) -> None:
    session, chosen = _generate(_ids(3), level=level)
    found: dict[int, list[ExpertsCall]] = defaultdict(list)
    for call in session.stats.experts:
        found[call.layer].append(call)
    assert found.keys() == chosen.keys() == {1, 2}
    for layer, calls in found.items():
        assert [(call.stage, call.step, call.rows) for call in calls] == [
            (Stage.PREFILL, 0, 36), (Stage.DECODE, 0, 3), (Stage.DECODE, 1, 3),
        ]  # fmt: skip
        for call, indices in zip(calls, chosen[layer], strict=True):
            assert list(call.rows_per_expert) == torch.bincount(indices.flatten(), minlength=8).tolist()
            assert call.distinct == len(set(indices.flatten().tolist()))


def test_copies_of_one_prompt_hit_exactly_top_k() -> None:
    session, _ = _generate(_ids(1).expand(16, -1).contiguous(), steps=3)
    decode = [call for call in session.stats.experts if call.stage is Stage.DECODE]
    assert [call.distinct for call in decode] == [TOP_K] * 6
    assert {call.observed_weight_bytes for call in decode} == {TOP_K * EXPERT_BYTES}
    assert all(call.expected_experts > 7.9 for call in decode)


def test_different_prompts_stay_between_top_k_and_all() -> None:
    session, _ = _generate(_ids(4))
    for call in session.stats.experts:
        assert TOP_K <= call.distinct <= min(8, TOP_K * call.rows)
        assert sum(call.rows_per_expert) == TOP_K * call.rows


@pytest.mark.parametrize(("level", "path"), [("op", "decoder.{}.moe.experts"), ("layer", "decoder.{}")])
def test_ranges_carry_expected_and_observed_weights(level: str, path: str, tmp_path: Path) -> None:
    session, _ = _generate(_ids(2), level=level)
    hits = {(c.stage, c.step, c.layer): c.distinct for c in session.stats.experts}
    noted = [record for record in session.stats.records if record.observed_weight_bytes is not None]
    routed = [record for record in noted if record.path in (path.format(1), path.format(2))]
    assert len(routed) == len(hits) == 3 * 2
    # What lies around them reads its own weights, observed or not.
    assert all(record.observed_weight_bytes == record.cost.weight_bytes for record in noted if record not in routed)
    for record in routed:
        assert record.layer is not None
        hit, shape = hits[record.stage, record.step, record.layer], CallShape(tokens=record.rows, dtype="float32")
        expected = build_analytic_layers_from_config(CONFIG).layers[1].mlp.experts.own(shape).weight_bytes  # type: ignore[union-attr]
        assert record.observed_weight_bytes == record.cost.weight_bytes - expected + hit * EXPERT_BYTES
    session.write(tmp_path)
    ranges, experts = read_table(tmp_path / "ranges.arrow"), read_table(tmp_path / "experts.arrow")
    assert ranges.schema.equals(RANGES)
    assert experts.schema.equals(EXPERTS)
    assert sum(value is not None for value in ranges["observed_weight_bytes"].to_pylist()) == len(noted)
    assert experts["distinct_experts"].to_pylist() == [call.distinct for call in session.stats.experts]
    assert sum(experts["rows_per_expert"][0].as_py()) == 2 * 12 * TOP_K


def test_a_models_own_range_carries_the_weights_of_all_layers_observed() -> None:
    session, _ = _generate(_ids(2), level="stage")
    model = next(r for r in session.stats.records if (r.path, r.stage, r.step) == ("model", Stage.DECODE, 1))
    hits = [c for c in session.stats.experts if (c.stage, c.step) == (Stage.DECODE, 1)]
    changed = sum(call.observed_weight_bytes - call.expected_weight_bytes for call in hits)
    assert model.observed_weight_bytes == model.cost.weight_bytes + changed


def test_the_summary_uses_what_was_observed() -> None:
    session, _ = _generate(_ids(1).expand(16, -1).contiguous())
    stages: Any = run_summary(own_calls(session.stats.records), pages=16)["stages"]
    decode = [call for call in session.stats.experts if call.stage is Stage.DECODE]
    less = sum(call.expected_weight_bytes - call.observed_weight_bytes for call in decode)
    assert stages["decode"]["observed_weight_bytes"] == stages["decode"]["weight_bytes"] - less
    with hook(MODEL) as bare:
        MODEL(input_ids=_ids(1), use_cache=False)
    assert run_summary(own_calls(bare.stats.records), pages=1)["stages"]["prefill"]["observed_weight_bytes"] is None  # type: ignore


@pytest.mark.parametrize("level", ["op", "layer", "stage"])
def test_marks_tell_each_step_once_after_the_steps(level: str) -> None:
    listener = Listener()
    session, _ = _generate(_ids(2), level=level, emitter=listener)
    marks = [mark for _, text in listener.marks if (mark := parse_experts_mark(text))]
    assert [(mark.stage, mark.step, len(mark.distinct)) for mark in marks] == [(1, 0, 2), (2, 0, 2), (2, 1, 2)]
    told = [(event, count) for mark in marks for event, count in mark.distinct]
    assert told == [(call.event_id, call.distinct) for call in session.stats.experts]
    assert {mark.expert_bytes for mark in marks} == {EXPERT_BYTES}
    paths = {values[0]: path for path, values in ((r.path, r.values) for r in listener.ranges)}
    known = {"op": {"decoder.1.moe.experts", "decoder.2.moe.experts"}, "layer": {"decoder.1", "decoder.2"}}
    assert {paths[event] for event, _ in told} == known.get(level, {"model"})
    assert listener.marks[-1][1].startswith("dsocr/1x ")


def test_observing_opens_no_range_and_launches_nothing() -> None:
    session, _ = _generate(_ids(2))
    with hook(MODEL) as bare, torch.inference_mode():
        kv = DynamicCache(config=CONFIG.text_config)
        for stage, given in [("prefill", _ids(2)), *[("decode", _ids(2)[:, :1])] * 2]:
            with bare.step(stage):
                MODEL(input_ids=given, **{CACHE_ARGUMENT: kv}, use_cache=True, logits_to_keep=1)
    assert [r.path for r in session.stats.records] == [r.path for r in bare.stats.records]
    assert session.observer is not None
    kept = [indices for watched in session.observer._layers for indices in watched.chosen]
    assert {tuple(indices.shape) for indices in kept} == {(24, TOP_K), (2, TOP_K)}


def test_outputs_are_those_without_it() -> None:
    ids = _ids(3)
    with torch.inference_mode():
        bare = MODEL(input_ids=ids).logits
        with hook(MODEL, observe_experts=True):
            assert torch.equal(MODEL(input_ids=ids).logits, bare)
    assert not any("forward" in module.__dict__ for module in MODEL.modules())


def test_a_warm_up_counts_nothing_and_discarding_forgets() -> None:
    with hook(MODEL, observe_experts=True) as session:
        with session.muted():
            MODEL(input_ids=_ids(2))
        MODEL(input_ids=_ids(2))
        session.discard()
        MODEL(input_ids=_ids(1))
    assert [(call.rows, sum(call.rows_per_expert)) for call in session.stats.experts] == [(12, 24)] * 2


def test_it_can_be_switched_off_and_on_between_calls() -> None:
    with hook(MODEL, observe_experts=True) as session:
        assert session.observer is not None
        for enabled in (True, False, True):
            session.observer.enabled = enabled
            MODEL(input_ids=_ids(1))
    assert [call.step for call in session.stats.experts] == [0, 0, 2, 2]


def test_what_is_published_early_is_not_told_again() -> None:
    listener = Listener()
    with hook(MODEL, observe_experts=True, emitter=listener) as session:
        MODEL(input_ids=_ids(1))
        session.publish_experts()
        MODEL(input_ids=_ids(1))
    assert sum(text.startswith("dsocr/1x") for _, text in listener.marks) == 2
    assert len(session.stats.experts) == 4


def test_a_full_buffer_keeps_the_expected_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExpertsObserver, "MOST_CALLS", 2)
    session, _ = _generate(_ids(1), steps=3)
    assert len(session.stats.experts) == 2 * 2
    last = [r for r in session.stats.records if r.path == "decoder.1.moe.experts"][-1]
    assert last.observed_weight_bytes is None


def test_a_fault_in_counting_never_reaches_the_model() -> None:
    with torch.inference_mode(), hook(MODEL, observe_experts=True) as session:
        assert session.observer is not None
        for watched in session.observer._layers:
            watched.chosen = None  # type: ignore[assignment]
        logits = MODEL(input_ids=_ids(1)).logits
    assert torch.equal(logits, MODEL(input_ids=_ids(1)).logits)
    assert session.errors


def test_attached_in_inference_mode_it_counts_outside_too() -> None:
    with torch.inference_mode():
        block = hook(MODEL, observe_experts=True)
        session = block.__enter__()
    with torch.no_grad():
        MODEL(input_ids=_ids(1))
    block.__exit__(None, None, None)
    assert session.errors == []
    assert len(session.stats.experts) == 2


def test_the_vendors_method_is_layers_like_a_module() -> None:
    """Its routed experts are a list of modules, run from a method that is called with rows, indices and weights."""
    model, chosen = vendor_model(experts=8), []
    gate = model.model.layers[2].mlp.gate
    handle = gate.register_forward_hook(
        lambda _m, _a, out: chosen.append(torch.bincount(out[0].flatten(), minlength=8))
    )
    with hook(model, observe_experts=True) as session, torch.no_grad():
        for tokens in (7, 1):
            model(input_ids=torch.arange(tokens)[None], use_cache=False)
    handle.remove()
    calls = [call for call in session.stats.experts if call.layer == 2]
    assert [list(call.rows_per_expert) for call in calls] == [counts.tolist() for counts in chosen]
    paths = {record.event_id: record.path for record in session.stats.records}
    assert [paths[call.event_id] for call in calls] == ["decoder.2.moe.experts"] * 2


@pytest.mark.parametrize("listens", [False, True])
def test_what_was_recorded_keeps_no_module_alive(listens: bool) -> None:
    model: Any = random_model(CONFIG)
    experts = ref(model.model.language_model.layers[2].mlp.experts)
    with hook(model, observe_experts=True, emitter=Listener(active=listens)) as session:
        run(model, session, tokens=6)
    del model
    gc.collect()
    assert experts() is None
    assert len(session.stats.experts) == 2 * 6
    assert get_analytic_run_stats() is session.stats


def test_captured_indices_live_until_the_next_capture() -> None:
    """One capture per batch: what launches keep of earlier ones is a copy of what each chose."""
    indices: list[Any] = []
    gate = MODEL.model.language_model.layers[1].mlp.gate
    handle = gate.register_forward_hook(lambda _m, _a, out: indices.append(ref(out[2])))
    ids, batches = _ids(1), 3
    with torch.inference_mode(), hook(MODEL, observe_experts=True) as session:
        for _ in range(batches):
            kv = StaticCache(config=CONFIG.text_config, max_cache_len=20)
            with session.captured("decode"):
                MODEL(input_ids=ids[:, :1], **{CACHE_ARGUMENT: kv}, use_cache=True, logits_to_keep=1)
            for step in range(2):
                with session.step("decode"):
                    session.replayed(2 + step)
                session.launched()
            del kv
            assert [one() is not None for one in indices] == [False] * (len(indices) - 1) + [True]
    handle.remove()
    assert indices[-1]() is None
    assert session.errors == []
    assert [call.distinct for call in session.stats.experts] == [TOP_K] * 2 * 2 * batches
