"""Forwards that are known beforehand: a tool hears of them what it hears where every call is read and priced."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from dsocr_nvtx.hooks import HookSession, hook
from dsocr_nvtx.hooks.bindings import bindings
from dsocr_nvtx.hooks.forwards import Forwards
from dsocr_nvtx.hooks.scripts import growth
from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.schema.payload_v1 import FIELD_INDEX_V1 as FIELD_INDEX
from dsocr_nvtx.schema.payload_v1 import WIRE_V1
from dsocr_nvtx.schema.records import Level, RangeRecord
from tests.builders.emitters import Listener
from tests.hooks.networks import forward, network, run

_EVENT = FIELD_INDEX["event_id"]
Scenario = Callable[[Any, HookSession], None]


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


def _page(model: Any, session: HookSession) -> None:
    run(model, session, tokens=8)


def _static_page(model: Any, session: HookSession) -> None:
    from dsocr_nvtx.run.loop import Decoding, run_pages
    from dsocr_nvtx.run.prompt import prompt_ids
    from tests.hooks.networks import page

    views = page()
    ids = prompt_ids(views.image_tokens(), model.config)
    run_pages(model, views.model_inputs(), ids, Decoding(max_new_tokens=7, mode="static"), session)


def _forwards(model: Any, batches: list[int], inside: Callable[[int], object] = lambda _number: None) -> None:
    caches: dict[int, DynamicCache] = {}
    with torch.no_grad():
        for number, batch in enumerate(batches):
            inside(number)
            first = batch not in caches
            cache = caches.setdefault(batch, DynamicCache(config=model.config.text_config))
            ids = torch.ones(batch, 5 if first else 1, dtype=torch.int64)
            try:
                model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            except RuntimeError as error:
                assert str(error) == "in the model"  # noqa: PT017 - other errors are none of ours


def _batches_in_turn(model: Any, _session: HookSession) -> None:
    _forwards(model, [1, 2, 1, 1, 1, 2, 2, 1, 2, 1, 1, 2, 2])


def _call_out_of_turn(model: Any, _session: HookSession) -> None:
    """One forward calls a norm twice, one a module that no forward before it called, one leaves calls out."""
    language = model.model.language_model
    layer, sizes = language.layers[1], torch.zeros(1, 1, model.config.text_config.hidden_size)
    attention = layer.self_attn.__dict__["forward"]

    def inside(number: int) -> None:
        layer.self_attn.__dict__["forward"] = attention
        if number in (4, 9):

            def more(*args: Any, **kwargs: Any) -> Any:
                language.layers[0].input_layernorm(sizes)
                return attention(*args, **kwargs)

            layer.self_attn.__dict__["forward"] = more

    _forwards(model, [1] * 14, inside)
    layer.self_attn.__dict__["forward"] = attention


def _failing_call(model: Any, _session: HookSession) -> None:
    """The model fails inside a forward that is known, and goes on with the next."""
    experts = model.model.language_model.layers[2].mlp.experts
    inner = experts.__dict__["forward"]

    def inside(number: int) -> None:
        def fail(*_args: Any, **_kwargs: Any) -> Any:
            raise RuntimeError("in the model")

        experts.__dict__["forward"] = fail if number in (3, 6) else inner

    _forwards(model, [1] * 10, inside)
    experts.__dict__["forward"] = inner


def _call_inside_out_of_turn(model: Any, _session: HookSession) -> None:
    """An attention, whose layer works on after it, calls a norm that does not belong there."""
    layer, sizes = model.model.language_model.layers[1], torch.zeros(1, 1, model.config.text_config.hidden_size)
    inner = layer.self_attn.q_proj.forward

    def inside(number: int) -> None:
        def more(*args: Any, **kwargs: Any) -> Any:
            layer.input_layernorm(sizes)
            return inner(*args, **kwargs)

        layer.self_attn.q_proj.__dict__["forward"] = more if number == 4 else inner

    _forwards(model, [1] * 7, inside)
    del layer.self_attn.q_proj.__dict__["forward"]


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
        for number in range(14):
            again[:] = [{4: 1, 9: 2}.get(number, 0)]
            with session.step("decode"):
                forward(model, cache)
    del model.model.__dict__["forward"]


SCENARIOS = [
    _page, _static_page, _batches_in_turn, _call_out_of_turn, _failing_call, _call_inside_out_of_turn, _forward_inside,
]  # fmt: skip


def _heard(model: Any, scenario: Scenario, level: str = "op", **options: Any) -> tuple[Listener, HookSession]:
    with hook(model, level=level, emitter=(listener := Listener()), **options) as session:
        scenario(model, session)
    assert session.errors == []
    assert listener.stack == []
    return listener, session


def _ranges(listener: Listener) -> list[tuple[object, ...]]:
    first = listener.ranges[0].values[_EVENT]
    return [(p.path, p.stage, p.values[_EVENT] - first, *p.values[_EVENT + 1 :]) for p in listener.ranges]


def _without_rests(listener: Listener) -> list[tuple[object, ...]]:
    return [(*told[:2], *told[3:]) for told in _ranges(listener) if not str(told[0]).endswith(".rest")]


def _nesting(listener: Listener) -> list[int]:
    """Return how many ranges lie around each."""
    ends: list[int] = []
    depths = []
    for pushed in listener.ranges:
        assert pushed.end is not None
        ends = [end for end in ends if end > pushed.start]
        depths.append(len(ends))
        ends.append(pushed.end)
    return depths


def _records(session: HookSession) -> list[tuple[object, ...]]:
    records = session.stats.records
    first = min(record.event_id for record in records)

    def row(r: RangeRecord) -> tuple[object, ...]:
        parent = None if r.parent_id is None else r.parent_id - first
        return (r.event_id - first, parent, r.path, str(r.stage), r.step, r.shape, r.cost, r.own_activation_bytes)

    return sorted(map(row, records), key=lambda told: told[0])  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("scenario", "level"),
    [
        *((scenario, "op") for scenario in SCENARIOS),
        *((s, level) for s in SCENARIOS[:3] for level in ("layer", "stage")),
    ],
)
def test_known_forwards_are_told_as_others_are(
    model: Any, scenario: Scenario, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, session = _heard(model, scenario, level)
    monkeypatch.setattr(Forwards, "MOST_STRAYS", 0)
    slow, read_all = _heard(model, scenario, level)
    assert session.stats.rows.kept < len(session.stats.rows) or level == "stage"
    assert read_all.stats.rows.kept == len(read_all.stats.rows)
    if scenario is _failing_call:  # nothing is left to its container then, so a known forward opens no range for it
        assert _without_rests(listener) == _without_rests(slow)
        return
    assert _ranges(listener) == _ranges(slow)
    assert _nesting(listener) == _nesting(slow)
    assert _records(session) == _records(read_all)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_texts_alone_tell_the_same_costs(model: Any, scenario: Scenario, tmp_path: Path) -> None:
    listener, _ = _heard(model, scenario)
    assert any(WIRE_V1.parse_growth(text) for _, text in listener.marks)
    whole = join(read(listener.as_nsys().write(tmp_path / "whole.sqlite")), "whole")
    bare = join(read(listener.as_nsys(payloads=False).write(tmp_path / "bare.sqlite")), "bare")
    assert bare.accounting.cost_sources["announcement"] == len(listener.ranges)
    assert bare.ranges.equals(whole.ranges)


def test_a_known_forward_is_repeated_for_captures_that_begin_late(model: Any) -> None:
    with hook(model, emitter=(listener := Listener())) as session:
        run(model, session, tokens=40)
    steps = [pushed.start for pushed in listener.ranges if pushed.path == "decode"]
    told = [sum(a - 10 <= time < b - 10 for time, _ in listener.marks) for a, b in itertools.pairwise(steps)]
    paths = {pushed.path for pushed in listener.ranges if pushed.stage == "decode"}
    assert [count for count in told[1:] if count > 2] == [len(paths)]


def test_what_follows_a_warm_up_is_counted_from_zero(model: Any) -> None:
    with hook(model, emitter=(listener := Listener())) as session:
        run(model, session, tokens=6)
        session.discard()
        before = len(listener.ranges)
        run(model, session, tokens=6)
    steps = [p.values[FIELD_INDEX["step"]] for p in listener.ranges[before:] if p.path == "decoder.1.moe.gate"]
    assert steps == [0, *range(5)]


@pytest.mark.parametrize("level", ["op", "layer"])
def test_experts_are_observed_in_known_forwards(model: Any, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, quick = _heard(model, _page, level, observe_experts=True)
    monkeypatch.setattr(Forwards, "MOST_STRAYS", 0)
    _, slow = _heard(model, _page, level, observe_experts=True)
    first, other = (min(r.event_id for r in session.stats.records) for session in (quick, slow))
    told = [(c.event_id - first, c.step, c.layer, c.rows_per_expert) for c in quick.stats.experts]
    assert told == [(c.event_id - other, c.step, c.layer, c.rows_per_expert) for c in slow.stats.experts]
    assert len(told) == 2 * 8


def test_a_forward_that_keeps_straying_is_not_learned_for_ever(model: Any) -> None:
    norm, sizes = model.model.language_model.norm, torch.zeros(1, 1, model.config.text_config.hidden_size)
    with hook(model, emitter=Listener()) as session:
        hooked, calls = norm.__dict__["forward"], iter(range(100))

        def more(*args: Any, **kwargs: Any) -> Any:
            if next(calls) % 2:
                model.model.language_model.layers[0].input_layernorm(sizes)
            return hooked(*args, **kwargs)

        norm.__dict__["forward"] = more
        _forwards(model, [1] * 20)
        forwards = session._shared.forwards
        assert set(forwards.strays.values()) == {Forwards.MOST_STRAYS}
        assert not forwards.scripts
        norm.__dict__["forward"] = hooked
    assert session.errors == []


_PLACES = [binding.place for binding in bindings(network(), Level.OP) if binding.place.grows]


@given(
    place=st.sampled_from(_PLACES), batch=st.integers(1, 16), kv_len=st.integers(2, 5000), more=st.integers(0, 3000),
    slots=st.one_of(st.just(0), st.integers(8001, 9000)),
    experts=st.sampled_from(["eager", "grouped_mm", "batched_mm"]),
)  # fmt: skip
def test_a_decode_steps_costs_grow_evenly(
    place: Any, batch: int, kv_len: int, more: int, slots: int, experts: str
) -> None:
    """By the same numbers with every key: what is told of one step holds for any other, exactly."""

    def words(keys: int) -> Any:
        return place.price((batch, 1, keys, slots, experts, 1)).words

    each = growth(place, (batch, 1, kv_len, slots, experts, 1))
    assert each is not None
    assert np.array_equal(words(kv_len + more), words(kv_len) + more * each[FIELD_INDEX["batch"] :])


def test_a_cost_that_grows_unevenly_is_not_told_as_growing() -> None:
    """The last call into a static cache, which fills it, costs less than the one before."""
    attention = next(place for place in _PLACES if place.path == "decoder.0.attention")
    assert growth(attention, (1, 1, 98, 100, "eager")) is None
    assert growth(attention, (1, 1, 90, 100, "eager")) is not None
