"""Forwards of every kind, one after the other and one inside the other: each is told as if it were the only one."""

import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from dsocr_nvtx.hooks import HookSession, hook
from dsocr_nvtx.hooks.bindings import hooked_network
from dsocr_nvtx.hooks.prices import Prices
from dsocr_nvtx.analytic.forward import TextForward
from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.run.loop import Decoding, run_pages
from dsocr_nvtx.run.model import CACHE_ARGUMENT
from dsocr_nvtx.run.prompt import prompt_ids
from dsocr_nvtx.schema.payload import FIELD_INDEX, WIRE
from dsocr_nvtx.schema.records import CallShape, Level, RangeRecord, Stage
from tests.builders.emitters import Listener
from tests.hooks.networks import forward, network, page, run

Scenario = Callable[[Any, HookSession], None]


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


def told(records: list[RangeRecord]) -> list[tuple[object, ...]]:
    """Return what is told of every range: its place, step, sizes and cost, and the path of what is around it."""
    paths = {record.event_id: record.path for record in records}
    return [
        (r.path, str(r.stage), r.step, r.layer, r.sequences, r.rows, r.keys, r.pairs, r.cost, str(r.state),
         paths.get(-1 if r.parent_id is None else r.parent_id))
        for r in records
    ]  # fmt: skip


def decode(
    model: Any, cache: Any, batch: int = 1, tokens: int = 1, logits: int = 1, numbers: torch.Tensor | None = None
) -> None:
    """Run one forward with a cache, under no stage that was said."""
    ids = torch.ones(batch, tokens, dtype=torch.int64) if numbers is None else numbers
    with torch.no_grad():
        model(input_ids=ids, **{CACHE_ARGUMENT: cache}, use_cache=True, logits_to_keep=logits)


@pytest.mark.parametrize("level", Level)
def test_whoever_listens_is_told_what_is_recorded(model: Any, level: str) -> None:
    with hook(model, level=level) as silent:
        run(model, silent, tokens=5)
    with hook(model, level=level, emitter=(listener := Listener())) as session:
        run(model, session, tokens=5)
    assert silent.errors == session.errors == []
    assert told(silent.stats.records) == told(session.stats.records)
    ids = [pushed.values[FIELD_INDEX["event_id"]] for pushed in listener.ranges]
    assert ids == [record.event_id for record in session.stats.records]
    fields = ("step", "sequences", "rows", "keys", "pairs")
    for pushed, record in zip(listener.ranges, session.stats.records, strict=True):
        said = [pushed.values[FIELD_INDEX[name]] for name in (*fields, "tensor_flops", "op_bytes", "weight_bytes")]
        kept = [getattr(record, name) for name in fields]
        assert said == [*kept, record.cost.tensor_flops, record.cost.op_bytes, record.cost.weight_bytes], record.path


@pytest.mark.parametrize(
    ("level", "path"), [("op", "decoder.{}.moe.experts"), ("layer", "decoder.{}"), ("stage", "model")]
)
@pytest.mark.parametrize("listens", [False, True])
def test_observed_experts_belong_to_their_calls(model: Any, level: str, path: str, listens: bool) -> None:
    with hook(model, level=level, observe_experts=True, emitter=Listener(active=listens)) as session:
        run(model, session, tokens=6)
    assert not session.errors
    records = {record.event_id: record for record in session.stats.records}
    calls = [call for call in session.stats.experts if call.stage is Stage.DECODE]
    assert sorted((call.step, call.layer) for call in calls) == [(step, layer) for step in range(5) for layer in (1, 2)]
    for call in calls:
        record = records[call.event_id]
        assert record.path == path.format(call.layer)
        assert (record.stage, record.step) == (call.stage, call.step)


def test_ids_are_unique_and_times_nest(model: Any) -> None:
    with hook(model) as session:
        run(model, session, tokens=6)
    records = {record.event_id: record for record in session.stats.records}
    assert len(records) == len(session.stats.records) == session.stats.ranges
    for record in records.values():
        if record.parent_id is not None:
            around = records[record.parent_id]
            assert around.host_start_ns <= record.host_start_ns <= record.host_end_ns <= around.host_end_ns
            assert around.step == record.step


def test_the_cache_is_read_at_every_forward_and_let_go(model: Any) -> None:
    """Somebody crops it between two steps: the next length is that of what is left."""
    with hook(model) as session:
        cache = DynamicCache(config=model.config.text_config)
        for tokens in (5, *[1] * 8):
            decode(model, cache, tokens=tokens)
        cache.crop(-4)
        decode(model, cache)
        alive = ref(cache)
        del cache
        assert alive() is None
    lengths = [record.kv_len for record in session.stats.records if record.path == "model"]
    assert lengths == [*range(5, 14), 10]
    assert session.errors == []


class _Slim:
    """A cache of one's own around transformers' one, that no weak reference can be made to."""

    __slots__ = ("inner",)

    def __init__(self, inner: DynamicCache) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_cache_that_no_weak_reference_can_be_made_to(model: Any) -> None:
    with hook(model, emitter=(listener := Listener())) as session:
        cache = _Slim(DynamicCache(config=model.config.text_config))
        for tokens in (5, *[1] * 6):
            decode(model, cache, tokens=tokens)
            assert listener.stack == []
    records = [record for record in session.stats.records if record.path == "model"]
    assert [record.kv_len for record in records] == list(range(5, 12))
    assert session.errors == []


@pytest.mark.parametrize("change", ["experts", "logits", "batch", "tokens"])
def test_a_forward_costs_what_it_costs_alone(model: Any, change: str) -> None:
    """Forwards of two kinds take turns: each is priced with what it was really called with."""
    text = model.config.text_config
    before = text._experts_implementation

    def once(number: int, caches: dict[int, DynamicCache]) -> None:
        odd = number % 4 >= 2
        batch = 2 if odd and change == "batch" else 1
        text._experts_implementation = "eager" if odd and change == "experts" else before
        logits = 0 if odd and change == "logits" else 1
        decode(model, caches[batch], batch, tokens=2 if odd and change == "tokens" else 1, logits=logits)

    def caches() -> dict[int, DynamicCache]:
        return {batch: DynamicCache(config=text) for batch in (1, 2)}

    try:
        with hook(model) as session:
            used = caches()
            for number in range(10):
                once(number, used)
        found, used = told(session.stats.records), caches()
        expected = []
        for number in range(10):
            with hook(model) as alone:
                once(number, used)
            expected += told(alone.stats.records)
    finally:
        text._experts_implementation = before
    without_step = [row[:2] + row[3:] for row in found]
    assert without_step == [row[:2] + row[3:] for row in expected]
    assert session.errors == []


def _page(model: Any, session: HookSession) -> None:
    run(model, session, tokens=8)


def _static_page(model: Any, session: HookSession) -> None:
    views = page()
    ids = prompt_ids(views.image_tokens(), model.config)
    run_pages(model, views.model_inputs(), ids, Decoding(max_new_tokens=7, mode="static"), session)


def _batches_in_turn(model: Any, _session: HookSession) -> None:
    caches = {batch: DynamicCache(config=model.config.text_config) for batch in (1, 2)}
    for number, batch in enumerate([1, 2, 1, 1, 1, 2, 2, 1, 2, 1, 1, 2, 2]):
        decode(model, caches[batch], batch, tokens=5 if number < 2 else 1)


def _call_out_of_turn(model: Any, _session: HookSession) -> None:
    """An attention calls a norm of another layer, in some forwards."""
    language = model.model.language_model
    layer, sizes = language.layers[1], torch.zeros(1, 1, model.config.text_config.hidden_size)
    inner, cache = layer.self_attn.q_proj.forward, DynamicCache(config=model.config.text_config)

    def more(*args: Any, **kwargs: Any) -> Any:
        language.layers[0].input_layernorm(sizes)
        return inner(*args, **kwargs)

    for number in range(10):
        layer.self_attn.q_proj.__dict__["forward"] = more if number in (0, 4, 9) else inner
        decode(model, cache)
    del layer.self_attn.q_proj.__dict__["forward"]


def _failing_call(model: Any, _session: HookSession) -> None:
    """The model fails inside a forward, and goes on with the next."""
    act, cache = model.model.language_model.layers[2].mlp.experts.act_fn, DynamicCache(config=model.config.text_config)

    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("in the model")

    for number in range(8):
        if number in (0, 3):
            act.__dict__["forward"] = fail
        with suppress(RuntimeError):
            decode(model, cache)
        act.__dict__.pop("forward", None)


def _forward_inside(model: Any, session: HookSession) -> None:
    """A forward calls the model again, with the same cache: as it is, and in a step of its own."""
    inner, again = model.model.forward, [0]
    cache = DynamicCache(config=model.config.text_config)

    def twice(*args: Any, **kwargs: Any) -> Any:
        found, kind = inner(*args, **kwargs), again.pop()
        again.append(0)
        if kind == 1:
            forward(model, cache)
        elif kind == 2:
            with session.step("prefill"):
                forward(model, cache)
        return found

    model.model.__dict__["forward"] = twice
    with torch.no_grad():
        forward(model, cache, 5)
        for number in range(8):
            again[:] = [{2: 1, 5: 2}.get(number, 0)]
            with session.step("decode"):
                forward(model, cache)
    del model.model.__dict__["forward"]


SCENARIOS = [_page, _static_page, _batches_in_turn, _call_out_of_turn, _failing_call, _forward_inside]


def _heard(model: Any, scenario: Scenario, level: str = "op") -> tuple[Listener, HookSession]:
    with hook(model, level=level, emitter=(listener := Listener())) as session:
        scenario(model, session)
    assert listener.stack == []
    return listener, session


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_second_time_is_told_as_the_first(model: Any, scenario: Scenario, level: str) -> None:
    """Once all its kinds of forward are known, a session tells of them what it told when they were new."""
    with hook(model, level=level, emitter=(listener := Listener())) as session:
        scenario(model, session)
        first, heard = told(session.stats.records), [(p.path, p.values[1:]) for p in listener.ranges]
        session.discard()
        listener.ranges.clear()
        scenario(model, session)
    assert told(session.stats.records) == first
    assert [(p.path, p.values[1:]) for p in listener.ranges] == heard
    with hook(model, level=level) as silent:
        scenario(model, silent)
    assert told(silent.stats.records) == first


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_texts_alone_tell_the_same_costs(model: Any, scenario: Scenario, tmp_path: Path) -> None:
    listener, _ = _heard(model, scenario)
    whole = join(read(listener.as_nsys().write(tmp_path / "whole.sqlite")), "whole")
    bare = join(read(listener.as_nsys(payloads=False).write(tmp_path / "bare.sqlite")), "bare")
    assert bare.accounting.cost_sources["announcement"] == len(listener.ranges)
    assert bare.ranges.equals(whole.ranges)


def test_a_call_that_is_out_of_turn_has_its_range(model: Any) -> None:
    _, session = _heard(model, _call_out_of_turn)
    norms = [r for r in session.stats.records if r.path == "decoder.0.input_norm"]
    assert len(norms) == 10 + 3
    assert len({(r.rows, r.cost) for r in norms}) == 1


def test_a_forward_inside_another_has_a_cost_of_its_own(model: Any) -> None:
    _, session = _heard(model, _forward_inside)
    lengths = [(str(r.stage), r.kv_len) for r in session.stats.records if r.path == "model"]
    assert [length for _, length in lengths] == list(range(5, 5 + len(lengths)))
    assert [stage for stage, _ in lengths].count("prefill") == 2
    attention = [r.kv_len for r in session.stats.records if r.path == "decoder.1.attention"]
    assert sorted(attention) == [length for _, length in lengths]


@pytest.mark.parametrize("listens", [False, True])
def test_a_first_forward_that_fails_spoils_no_other(model: Any, listens: bool) -> None:
    """Experts chosen in the next belong to the calls that chose them."""
    mixture = model.model.language_model.layers[1].mlp

    def fail(*_given: object) -> None:
        raise RuntimeError("no memory")

    with hook(model, observe_experts=True, emitter=Listener(active=listens)) as session:
        handle = mixture.register_forward_pre_hook(fail)
        with session.step("decode"), suppress(RuntimeError):
            decode(model, DynamicCache(config=model.config.text_config))
        handle.remove()
        cache = DynamicCache(config=model.config.text_config)
        for _ in range(4):
            with session.step("decode"):
                decode(model, cache)
    paths = {record.event_id: record.path for record in session.stats.records}
    charged = [(call.step, paths[call.event_id]) for call in session.stats.experts]
    assert sorted(charged) == [(step, f"decoder.{layer}.moe.experts") for step in range(1, 5) for layer in (1, 2)]
    assert session.errors == []


def test_costs_are_announced_again_for_captures_that_begin_late(model: Any) -> None:
    """Once in 40 steps a decode step announces all of its ranges, the others the two that tell the length alone."""
    with hook(model, emitter=(listener := Listener())) as session:
        run(model, session, tokens=40)
    steps = [pushed.start for pushed in listener.ranges if pushed.path == "decode"]
    heard = [sum(a - 10 <= time < b - 10 for time, _ in listener.marks) for a, b in itertools.pairwise(steps)]
    paths = {pushed.path for pushed in listener.ranges if pushed.stage == "decode"}
    assert [count for count in heard[1:] if count > 2] == [len(paths)]
    assert any(WIRE.parse_growth(text) for _, text in listener.marks)


def test_what_follows_a_warm_up_is_counted_from_zero(model: Any) -> None:
    with hook(model, emitter=(listener := Listener())) as session:
        run(model, session, tokens=6)
        session.discard()
        before = len(listener.ranges)
        run(model, session, tokens=6)
    steps = [p.values[FIELD_INDEX["step"]] for p in listener.ranges[before:] if p.path == "decoder.1.moe.gate"]
    assert steps == [0, *range(5)]


_FOUND = hooked_network(network(), Level.OP)
_MODEL = next(site for site in _FOUND.sites if site.path == "model")


def _costs(batch: int, slots: int, experts: str) -> Any:
    shape = CallShape(batch=batch, tokens=1, kv_slots=slots, experts=experts)
    return Prices().of(_MODEL, TextForward(model=_FOUND.network, logits=1), shape)


@given(
    batch=st.integers(1, 16), kv_len=st.integers(2, 5000), more=st.integers(0, 3000),
    slots=st.one_of(st.just(0), st.integers(8001, 9000)),
    experts=st.sampled_from(["eager", "grouped_mm", "batched_mm"]),
)  # fmt: skip
def test_a_decode_steps_costs_grow_evenly(batch: int, kv_len: int, more: int, slots: int, experts: str) -> None:
    """By the same numbers with every key: what is told of one step holds for any other, exactly."""
    costs = _costs(batch, slots, experts)
    each = costs.growth(kv_len)
    assert each is not None
    assert np.array_equal(costs.words(kv_len + more), costs.words(kv_len) + more * each)


def test_a_cost_that_grows_unevenly_is_not_told_as_growing() -> None:
    """The last call into a static cache, which fills it, costs less than the one before."""
    costs = _costs(1, 100, "eager")
    assert costs.growth(98) is None
    assert costs.growth(90) is not None
