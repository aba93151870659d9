"""Threads that decode with one hooked model: a tool hears of each what it hears where no other runs."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident, get_native_id
from typing import Any

import pytest
import torch
from attrs import define, field
from transformers import DynamicCache

from dsocr_nvtx.hooks import HookSession, hook
from dsocr_nvtx.schema.payload import FIELD_INDEX
from tests.builders.emitters import Listener
from tests.hooks.networks import forward, network

pytestmark = pytest.mark.usefixtures("recorder")

_EVENT, _STEP, _BATCH = (FIELD_INDEX[name] for name in ("event_id", "step", "sequences"))
_STEPS = 9


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


@define
class Interrupted(Listener):
    """Lets something else happen while one range is open, and keeps which thread pushed what."""

    by_thread: dict[int, list[tuple[str, list[int]]]] = field(factory=dict)
    path: str = ""
    meanwhile: Callable[[], object] | None = None

    def push(self, attributes: object) -> object:
        """Keep the push; then, of the range that was asked for, do the other thing."""
        super().push(attributes)
        pushed, other = self.ranges[-1], self.meanwhile
        self.by_thread.setdefault(get_ident(), []).append((pushed.path, pushed.values))
        if other is not None and pushed.path == self.path:
            self.meanwhile = None
            other()
        return None


def _decode(model: Any, session: HookSession, prompt: int, batch: int = 1) -> Iterator[None]:
    """Yield before every decode step of a text, or of several at once."""
    cache = DynamicCache(config=model.config.text_config)

    with torch.no_grad():
        forward(model, cache, prompt, batch)
    for _ in range(_STEPS):
        yield
        with torch.no_grad(), session.step("decode"):
            forward(model, cache, batch=batch)


def _told(ranges: list[tuple[str, list[int]]]) -> list[tuple[object, ...]]:
    """Return what is told of ranges: ids by their distance from the first, steps apart, as all threads count them."""
    first = ranges[0][1][_EVENT]
    return [(path, v[_EVENT] - first, *v[_EVENT + 1 : _STEP], *v[_STEP + 1 :]) for path, v in ranges]


@pytest.mark.parametrize("path", ["decode", "model", "decoder.0.attention", "decoder.1.moe.experts", "lm_head"])
def test_two_threads_are_told_as_one_is(model: Any, path: str) -> None:
    """In the middle of each step of one thread, from the one that is learned on, another takes a whole step."""
    expected = []
    for prompt in (5, 300):
        with hook(model, emitter=(alone := Interrupted())) as session:
            list(_decode(model, session, prompt))
        expected.append(_told(alone.by_thread[get_ident()]))
    listener = Interrupted(path=path)
    with ThreadPoolExecutor(1) as other, hook(model, emitter=listener) as session:
        mine, others = _decode(model, session, 5), _decode(model, session, 300)
        next(mine)
        other.submit(next, others).result()
        for _ in range(_STEPS):
            listener.meanwhile = lambda: other.submit(next, others, None).result()
            next(mine, None)
            assert listener.meanwhile is None
    assert session.errors == []
    assert [_told(ranges) for ranges in listener.by_thread.values()] == expected


@pytest.mark.parametrize("path", ["model", "decoder.0", "decoder.0.attention", "decoder.1.moe.experts", "lm_head"])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_batch_on_another_thread_is_not_taken_for_this_ones(model: Any, path: str, step: int) -> None:
    """Another thread's step of two texts, in the middle of a step that is learned, or known, or repeated."""
    listener = Interrupted(path=path)
    with ThreadPoolExecutor(1) as other, hook(model, emitter=listener) as session:
        mine, others = _decode(model, session, 5), _decode(model, session, 50, batch=2)
        next(mine)
        other.submit(next, others).result()
        for number in range(_STEPS):
            if number == step:
                listener.meanwhile = lambda: other.submit(next, others, None).result()
            next(mine, None)
    assert session.errors == []
    priced = [record for record in session.stats.records if record.path == path]
    assert {record.sequences for record in priced if record.thread_id == get_native_id()} == {1}
    assert {values[_BATCH] for told, values in listener.by_thread[get_ident()] if told == path} == {1}


@pytest.mark.parametrize("listens", [True, False])
def test_a_forward_that_fails_leaves_the_next_as_it_would_have_been(
    model: Any, monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    """Nothing of it is held: the thread's next forwards have the ranges that a fresh thread's have."""

    def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("in the model")

    def told(session: HookSession) -> list[tuple[str, int, int, object]]:
        return [(r.path, r.rows, r.keys, r.cost) for r in session.stats.records]

    with hook(model) as session:
        list(_decode(model, session, 5))
    expected = told(session)
    with hook(model, emitter=(listener := Listener(active=listens))) as session:
        steps = _decode(model, session, 5)
        next(steps)
        monkeypatch.setattr(model.model.language_model.layers[1].mlp.experts.act_fn, "forward", fail)
        with pytest.raises(RuntimeError, match="in the model"):
            next(steps)
        monkeypatch.undo()
        assert listener.stack == []
        session.discard()
        list(_decode(model, session, 5))
    assert told(session) == expected
    assert session.errors == []
