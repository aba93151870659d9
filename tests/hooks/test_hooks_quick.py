"""Calls that are only timed are recorded as others are: the same costs, in the same places, inside the same calls."""

from contextlib import suppress
from typing import Any
from weakref import ref

import pytest
import torch
from transformers import DynamicCache

from dsocr_nvtx.hooks import HookSession, hook
from dsocr_nvtx.hooks.shapes import ModelReader
from dsocr_nvtx.schema.records import Cost, RangeRecord, Stage
from tests.builders.emitters import Listener
from tests.hooks.networks import forward, network, run


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


def told(session: HookSession) -> list[tuple[object, ...]]:
    """Return every priced call: where it is, what it costs, and the path of what is around it."""
    records = session.stats.records
    paths = {record.event_id: record.path for record in records}
    around = {record.event_id: paths.get(-1 if record.parent_id is None else record.parent_id) for record in records}

    def row(r: RangeRecord) -> tuple[object, ...]:
        return (str(r.stage), r.step, r.path, r.layer, r.shape, r.cost, r.own_activation_bytes, around[r.event_id])

    return sorted((row(record) for record in records if record.cost != Cost()), key=str)


@pytest.mark.parametrize("level", ["layer", "op"])
def test_timed_calls_are_recorded_as_others_are(model: Any, level: str) -> None:
    with hook(model, level=level, events="ranges") as slow:
        run(model, slow, tokens=5)
    with hook(model, level=level) as quick:
        run(model, quick, tokens=5)
    assert quick.stats.rows.kept < len(quick.stats.rows) == len(quick.stats.records)
    assert slow.stats.rows.kept == len(slow.stats.rows)
    assert not quick.errors
    assert [row[:6] for row in told(quick)] == [row[:6] for row in told(slow)]
    assert told(quick) == told(slow)


@pytest.mark.parametrize(
    ("level", "path"), [("op", "decoder.{}.moe.experts"), ("layer", "decoder.{}"), ("stage", "model")]
)
def test_observed_experts_belong_to_their_timed_calls(model: Any, level: str, path: str) -> None:
    with hook(model, level=level, observe_experts=True) as session:
        run(model, session, tokens=6)
    assert not session.errors
    if level != "stage":
        assert session.stats.rows.kept < len(session.stats.rows)
    records = {record.event_id: record for record in session.stats.records}
    calls = [call for call in session.stats.experts if call.stage is Stage.DECODE]
    assert len({(call.step, call.layer) for call in calls}) == len(calls) > 0
    assert {call.step for call in calls} == set(range(5))
    for call in calls:
        record = records[call.event_id]
        assert record.path == path.format(call.layer)
        assert (record.stage, record.step) == (call.stage, call.step)


def test_ids_are_unique_and_times_nest(model: Any) -> None:
    with hook(model) as session:
        run(model, session, tokens=6)
    records = {record.event_id: record for record in session.stats.records}
    assert len(records) == len(session.stats.rows)
    for record in records.values():
        if record.parent_id is not None:
            around = records[record.parent_id]
            assert around.host_start_ns <= record.host_start_ns <= record.host_end_ns <= around.host_end_ns
            assert around.step == record.step


def test_an_error_in_the_model_leaves_the_log_whole(model: Any) -> None:
    head = model.lm_head.forward
    with hook(model) as session:
        run(model, session, tokens=4)
        before = len(session.stats.rows)

        def broken(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no")

        model.lm_head.forward = broken
        with pytest.raises(RuntimeError, match="no"):
            run(model, session, tokens=4)
        model.lm_head.forward = head
        run(model, session, tokens=4)
    assert len(session.stats.records) == len(session.stats.rows) > before
    model.lm_head.__dict__.pop("forward", None)


def test_a_forward_inside_one_whose_calls_are_only_timed_is_read(model: Any) -> None:
    def twice(session: HookSession) -> None:
        inner, cache = model.model.forward, DynamicCache(config=model.config.text_config)
        again: list[int] = []

        def once_more(*args: Any, **kwargs: Any) -> Any:
            found = inner(*args, **kwargs)
            if again and again.pop():
                forward(model, cache)
            return found

        model.model.__dict__["forward"] = once_more
        with torch.no_grad():
            forward(model, cache, 5)
            for number in range(8):
                again[:] = [1] if number in (4, 6) else []
                with session.step("decode"):
                    forward(model, cache)
            again[:] = [1]
            forward(model, cache)
        del model.model.__dict__["forward"]

    with hook(model, events="ranges") as slow:
        twice(slow)
    with hook(model) as quick:
        twice(quick)
    assert quick.stats.rows.kept < len(quick.stats.rows) == len(quick.stats.records)
    assert told(quick) == told(slow)


def test_nothing_is_only_timed_where_a_tool_or_an_event_needs_every_call(model: Any) -> None:
    with hook(model, events="ranges") as session:
        run(model, session, tokens=5)
    assert session.stats.rows.kept == len(session.stats.rows)


def test_a_forward_like_the_one_before_is_not_read_and_the_cache_is_let_go(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = ModelReader.__call__

    def noted(self: ModelReader, *given: Any) -> Any:
        reads.append(len(given))
        return read(self, *given)

    monkeypatch.setattr(ModelReader, "__call__", noted)
    with hook(model) as session, torch.no_grad():
        cache = DynamicCache(config=model.config.text_config)
        for stage, tokens in [("prefill", 5), *[("decode", 1)] * 8]:
            with session.step(stage):
                model(input_ids=torch.ones(1, tokens).long(), past_key_values=cache, use_cache=True, logits_to_keep=1)
        assert len(reads) == 3  # the prompt; a decode step, that is learned; one that finds it known
        records = [record for record in session.stats.records if record.path == "model"]
        assert [record.shape.kv_len for record in records] == list(range(5, 14))
        cache.crop(-4)
        with session.step("decode"):
            model(input_ids=torch.ones(1, 1).long(), past_key_values=cache, use_cache=True, logits_to_keep=1)
        assert session.stats.records[-1].step == 8
        assert max(r.shape.kv_len for r in session.stats.records if r.step == 8 and r.path == "model") == 10
        alive = ref(cache)
        del cache
        assert alive() is None
    assert session.errors == []


class _Slim:
    """A cache of one's own around transformers' one, that no weak reference can be made to."""

    __slots__ = ("inner",)

    def __init__(self, inner: DynamicCache) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize("fault", [False, True])
def test_a_forward_that_cannot_be_remembered_has_its_range(
    model: Any, fault: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose cache takes no weak reference: the next is read, and every range is closed."""

    def fail(*_given: object) -> None:
        raise ValueError("in the hook")

    if fault:
        monkeypatch.setattr("dsocr_nvtx.hooks.tap.repeat_of", fail)
    with hook(model, emitter=(listener := Listener())) as session, torch.no_grad():
        cache = _Slim(DynamicCache(config=model.config.text_config))
        for stage, tokens in [("prefill", 5), *[("decode", 1)] * 6]:
            with session.step(stage):
                model(input_ids=torch.ones(1, tokens).long(), past_key_values=cache, use_cache=True, logits_to_keep=1)
            assert listener.stack == []
    records = [record for record in session.stats.records if record.path == "model"]
    assert [record.shape.kv_len for record in records] == list(range(5, 12))
    assert session.errors == (["model: ValueError: in the hook"] if fault else [])


@pytest.mark.parametrize("change", ["experts", "logits", "batch", "stage"])
def test_a_forward_unlike_the_one_before_is_read(model: Any, change: str) -> None:
    """The same calls, each priced with what it was really called with."""

    def decode(session: HookSession) -> list[tuple[object, ...]]:
        cache = DynamicCache(config=model.config.text_config)
        text = model.config.text_config
        before = text._experts_implementation
        try:
            for number in range(12):
                odd = number >= 4 and number % 4 < 2
                stage = "prefill" if odd and change == "stage" else "decode"
                batch = 2 if odd and change == "batch" else 1
                text._experts_implementation = "eager" if odd and change == "experts" else before
                used = cache if batch == 1 else DynamicCache(config=model.config.text_config)
                with session.step(stage), torch.no_grad():
                    model(
                        input_ids=torch.ones(batch, 1).long(), past_key_values=used, use_cache=True,
                        logits_to_keep=0 if odd and change == "logits" else 1,
                    )  # fmt: skip
        finally:
            text._experts_implementation = before
        return told(session)

    with hook(model) as quick:
        found = decode(quick)
    with hook(model, events="ranges") as slow:
        assert found == decode(slow)
    assert quick.errors == slow.errors == []


@pytest.mark.parametrize("listens", [False, True])
def test_a_first_forward_that_fails_makes_no_other_known(model: Any, listens: bool) -> None:
    """Else the experts of the next would belong to whatever call ends before the one that was never seen."""
    mixture = model.model.language_model.layers[1].mlp

    def fail(*_given: object) -> None:
        raise RuntimeError("no memory")

    with hook(model, observe_experts=True, emitter=Listener(active=listens)) as session, torch.no_grad():
        for attempt in range(2):
            cache = DynamicCache(config=model.config.text_config)
            handle = mixture.register_forward_pre_hook(fail) if attempt == 0 else None
            for _ in range(1 if handle else 4):
                with session.step("decode"), suppress(RuntimeError):
                    model(input_ids=torch.ones(1, 1).long(), past_key_values=cache, use_cache=True, logits_to_keep=1)
            if handle is not None:
                assert not session._shared.forwards.known
                assert not session._shared.forwards.scripts
                handle.remove()
    paths = {record.event_id: record.path for record in session.stats.records}
    charged = [(call.step, paths[call.event_id]) for call in session.stats.experts]
    assert sorted(charged) == [(step, f"decoder.{layer}.moe.experts") for step in range(1, 5) for layer in (1, 2)]
    assert session._shared.forwards.strays == {}
    assert session.errors == []
