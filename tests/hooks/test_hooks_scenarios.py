"""Runs in which forwards of several kinds meet: a second time, or from texts alone, they are told as the first."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from dsocr_nvtx.hooks import HookSession, hook
from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.run.loop import Decoding, run_pages
from dsocr_nvtx.run.prompt import prompt_ids
from dsocr_nvtx.schema.records import Level
from tests.builders.emitters import Listener
from tests.hooks.networks import decode, forward, network, page, run, told

pytestmark = pytest.mark.usefixtures("recorder")

Scenario = Callable[[Any, HookSession], None]


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


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
