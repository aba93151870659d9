"""Several hooks on one model, and other people's patches: each hears its own, and what was there before comes back."""

from collections.abc import Callable
from contextlib import ExitStack
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from dsocr_nvtx.hooks import HookSession, hook
from dsocr_nvtx.schema.records import Cost
from tests.builders.emitters import Listener
from tests.hooks.networks import attached, forward, network

pytestmark = pytest.mark.usefixtures("recorder")

IDS = torch.arange(3, 10)[None]


def _run(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def _told(session: HookSession) -> list[tuple[str, str, int, Cost]]:
    return [(r.path, str(r.stage), r.step, r.cost) for r in session.stats.records]


def _alone(model: Any, times: int = 1) -> list[tuple[str, str, int, Cost]]:
    with hook(model) as session:
        for _ in range(times):
            _run(model)
    return _told(session)


def test_two_hooks_on_one_model_both_hear_all_of_it() -> None:
    model = network()
    logits, expected = _run(model), _alone(model)
    heard = Listener(), Listener()
    with hook(model, emitter=heard[0]) as outer, hook(model, emitter=heard[1]) as inner:
        assert torch.equal(_run(model), logits)
    assert _told(outer) == _told(inner) == expected
    assert [p.path for p in heard[0].ranges] == [p.path for p in heard[1].ranges]
    assert outer.errors == inner.errors == []
    assert heard[0].stack == heard[1].stack == []
    assert attached(model) == []


@pytest.mark.parametrize("first", ["outer", "inner"])
def test_blocks_may_end_in_either_order(first: str) -> None:
    """What has left hears nothing more, the other goes on, and in the end the model is bare."""
    model = network()
    expected = _alone(model, 2)
    outer, inner = hook(model), hook(model)
    one, two = outer.__enter__(), inner.__enter__()
    _run(model)
    leaves, stays = (outer, inner) if first == "outer" else (inner, outer)
    goes, goes_on = (one, two) if first == "outer" else (two, one)
    leaves.__exit__(None, None, None)
    _run(model)
    stays.__exit__(None, None, None)
    assert _told(goes) == expected[: len(expected) // 2]
    assert _told(goes_on) == expected
    assert one.errors == two.errors == []
    assert attached(model) == []
    assert _alone(model, 2) == expected


@pytest.mark.parametrize("first", [0, 1, 2])
def test_three_blocks_in_any_order_leave_nothing(first: int) -> None:
    model = network()
    before = [dict(module.__dict__) for module in model.modules()]
    blocks = [hook(model) for _ in range(3)]
    for block in blocks:
        block.__enter__()
    for block in (*blocks[first:], *blocks[:first]):
        block.__exit__(None, None, None)
    assert [dict(module.__dict__) for module in model.modules()] == before


def test_two_threads_may_hook_one_model_at_a_time() -> None:
    model = network()
    expected = [(path, cost) for path, _, _, cost in _alone(model)]
    both, found, faults = Barrier(2), {}, []

    def work(name: int) -> None:
        try:
            for _ in range(3):
                with hook(model) as session:
                    both.wait(30)
                    _run(model)
                    both.wait(30)
                found[name] = session
        except Exception as error:  # noqa: BLE001 - told in the test's own thread
            faults.append(error)
            both.abort()

    threads = [Thread(target=work, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert attached(model) == []
    for session in found.values():
        assert session.errors == []
        records = session.stats.records
        for thread_id in {record.thread_id for record in records}:
            assert [(r.path, r.cost) for r in records if r.thread_id == thread_id] == expected
        assert {record.thread_id for record in records} >= {min(r.thread_id for r in records)}


def _patched(model: Any) -> Callable[[], int]:
    """Replace the head's forward as a user may, around whatever is there; return how often it was called."""
    inner, calls = model.lm_head.forward, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return inner(*args, **kwargs)

    model.lm_head.forward = counted
    return lambda: len(calls)


def test_a_patch_made_inside_the_block_stays() -> None:
    model = network()
    with hook(model) as session:
        calls = _patched(model)
        _run(model)
    _run(model)
    assert calls() == 2
    assert [record.path for record in session.stats.records].count("lm_head") == 1
    with hook(model) as again:
        _run(model)
    assert calls() == 3
    assert [record.path for record in again.stats.records].count("lm_head") == 1
    assert "forward" in model.lm_head.__dict__


def test_a_patch_made_before_the_block_is_there_afterwards() -> None:
    model = network()
    calls = _patched(model)
    patch = model.lm_head.forward
    with hook(model):
        _run(model)
    assert calls() == 1
    assert model.lm_head.forward is patch


def test_hooks_of_torchs_own_run_as_without() -> None:
    model, seen = network(), []
    with ExitStack() as handles:
        for module in (model, model.lm_head, model.model.language_model.layers[0]):
            handle = module.register_forward_hook(lambda m, _a, _o: seen.append(type(m).__name__))
            handles.callback(handle.remove)
        _run(model)
        expected = list(seen)
        seen.clear()
        with hook(model):
            _run(model)
    assert seen == expected


def test_a_model_compiled_by_its_forward_is_hooked_around_it() -> None:
    """``model.forward = torch.compile(model.forward)``: the call as a whole has its range, stage and cost."""
    model = network()

    def told() -> list[tuple[str, str, int, Cost]]:
        cache = DynamicCache(config=model.config.text_config)
        with hook(model, level="stage") as session, torch.no_grad():
            for tokens in (5, 1, 1):
                forward(model, cache, tokens)
        return _told(session)

    expected = told()
    model.forward = torch.compile(model.forward, backend="eager")
    assert told() == expected
    torch.compiler.reset()
