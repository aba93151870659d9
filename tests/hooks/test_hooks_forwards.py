"""Forwards of every kind, one after the other and one inside the other: each is told as if it were the only one."""

import itertools
from contextlib import suppress
from typing import Any
from weakref import ref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from dsocr_nvtx.analytic.forward import TextForward
from dsocr_nvtx.hooks import hook
from dsocr_nvtx.hooks.bindings import hooked_network
from dsocr_nvtx.hooks.payloads import PayloadTable
from dsocr_nvtx.hooks.prices import Prices
from dsocr_nvtx.schema.payload import FIELD_INDEX, WIRE, Flag
from dsocr_nvtx.schema.records import CallShape, Level, Stage
from tests.builders.emitters import Listener
from tests.hooks.networks import decode, network, run, told

pytestmark = pytest.mark.usefixtures("recorder")


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


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


@pytest.mark.parametrize("kv_len", [9, 10])
def test_what_one_thread_contradicts_is_so_in_the_records_of_all(kv_len: int) -> None:
    costs, known = _costs(1, 0, "eager"), Listener()
    tables = [PayloadTable(costs, Stage.DECODE, 9, known, len(_FOUND.sites)) for _ in range(2)]
    for table in tables:
        table.update(0, 9)
    costs.contradict(_MODEL.number)
    for table in tables:
        table.update(1, kv_len)
        assert table.records[0, FIELD_INDEX["flags"]] == Flag.UNKNOWN | Flag.CONTRADICTED
        assert np.array_equal(table.records[:, FIELD_INDEX["flags"] :], costs.words(kv_len))


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


def test_a_cache_that_cannot_be_seen_is_not_counted_as_checked(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a static cache on a GPU, whose length lies on the device."""
    with hook(model) as seen:
        run(model, seen, tokens=4)
    monkeypatch.setattr("dsocr_nvtx.hooks.caches.Caches.measured", lambda *_: None)
    with hook(model) as unseen:
        run(model, unseen, tokens=4)
    assert seen.errors == unseen.errors == []
    assert (seen.checks.forwards, unseen.checks.forwards) == (4, 0)
