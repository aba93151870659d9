"""Whatever ends a call, every range that was opened is closed, and the next forward is told as if nothing had been."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from dsocr_nvtx import hooks
from dsocr_nvtx.hooks import HookSession, hook
from dsocr_nvtx.run.model import CACHE_ARGUMENT
from tests.builders.emitters import Listener
from tests.hooks.networks import attached, network, run

pytestmark = pytest.mark.usefixtures("recorder")

ROOM = str(Path(hooks.__file__).parent)


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


def _steps(model: Any, steps: int = 3) -> Iterator[None]:
    """Yield before every decode step after a prompt."""
    cache = DynamicCache(config=model.config.text_config)
    ids = torch.arange(3, 10)[None]
    with torch.no_grad():
        for number in range(steps + 1):
            if number:
                yield
            given = ids if number == 0 else ids[:, :1]
            model(input_ids=given, use_cache=True, logits_to_keep=1, **{CACHE_ARGUMENT: cache})


def _told(session: HookSession) -> list[tuple[object, ...]]:
    return [(r.path, str(r.stage), r.rows, r.keys, r.cost) for r in session.stats.records]


@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize("path", ["embed_tokens", "layers.1.self_attn.o_proj", "layers.2.mlp.experts.act_fn", "norm"])
def test_an_interrupt_in_the_model_closes_every_range(model: Any, path: str, listens: bool) -> None:
    module = model.model.language_model.get_submodule(path)

    def interrupt(*_called: object) -> None:
        raise KeyboardInterrupt

    with hook(model) as session:
        list(_steps(model))
    expected = _told(session)
    with hook(model, emitter=(listener := Listener(active=listens))) as session:
        steps = _steps(model)
        next(steps)
        handle = module.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(steps)
        handle.remove()
        assert listener.stack == []
        assert all(pushed.end is not None for pushed in listener.ranges)
        session.discard()
        list(_steps(model))
    assert _told(session) == expected
    assert session.errors == []
    assert attached(model) == []


def _events(work: Callable[[], object], at: int) -> int:
    """Do some work, raise KeyboardInterrupt at the ``at``-th call or return in the hooks; return how many there were.

    That is where Python looks for signals: when a function begins, and when a call of one written in C is done.
    Not in what shields a listener's own push and pop: NVTX's are written in C, where there is none of it.
    """
    seen = count()

    def profile(frame: Any, event: str, _arg: object) -> None:
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(ROOM):
            return
        shields = getattr(frame.f_locals.get("function"), "__name__", "") in ("push", "pop")
        if not shields and next(seen) == at:
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return next(seen)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where it hits a generator that ends
@pytest.mark.parametrize("listens", [True, False])
def test_an_interrupt_in_the_hooks_closes_every_range(model: Any, listens: bool) -> None:
    """Wherever it comes, in a step whose kind is new and in one that is known."""
    with hook(model) as session:
        list(_steps(model))
    expected = _told(session)
    with hook(model, emitter=Listener(active=listens)) as session:
        places = _events(lambda: list(_steps(model)), -1)
    for at in range(0, places, max(places // 16, 1)):
        with hook(model, emitter=(listener := Listener(active=listens))) as session:
            with suppress(KeyboardInterrupt):
                _events(lambda: list(_steps(model)), at)
            assert listener.stack == [], at
            session.discard()
            list(_steps(model))
            assert _told(session) == expected, at
        assert attached(model) == []


class Failing(Listener):
    """Fails at one push or pop: a tool that is lost for a moment, or an emitter with a fault."""

    failing: int = -1
    seen: int = 0

    def push(self, attributes: object) -> object:
        """Fail, or open a range."""
        self._turn()
        return super().push(attributes)

    def pop(self) -> object:
        """Close the range, and fail after it."""
        found = super().pop()
        self._turn()
        return found

    def _turn(self) -> None:
        self.seen += 1
        if self.seen - 1 == self.failing:
            raise OSError("the device is lost")


@pytest.mark.parametrize("announces", [True, False])
def test_one_push_or_pop_that_fails_spoils_nothing_after_it(model: Any, announces: bool) -> None:
    """It is noted, the model goes on, and every other call has its range and its record."""
    with hook(model, level="layer", emitter=(whole := Failing(announces=announces))) as session:
        tokens = run(model, session, tokens=3)
    everything = Counter((r.path, str(r.stage)) for r in session.stats.records)
    for at in range(0, whole.seen, max(whole.seen // 8, 1)):
        emitter = Failing(announces=announces)
        emitter.failing = at
        with hook(model, level="layer", emitter=emitter) as session:
            assert torch.equal(run(model, session, tokens=3), tokens)
        assert emitter.stack == []
        (line,) = session.errors
        assert "the device is lost" in line
        found = Counter((r.path, str(r.stage)) for r in session.stats.records)
        assert (everything - found).total() <= 1  # a range that could not be opened has no record
        assert not found - everything


@pytest.mark.parametrize("level", ["stage", "layer", "op"])
@pytest.mark.parametrize("observe", [False, True])
def test_each_range_is_pushed_and_popped_once(model: Any, level: str, observe: bool) -> None:
    with hook(model, record=False) as plain:
        tokens = run(model, plain, tokens=3)
    listener = Listener(announces=False)
    with hook(model, level=level, observe_experts=observe, emitter=listener) as session:
        assert torch.equal(run(model, session, tokens=3), tokens)
    assert session.errors == []
    assert listener.stack == []
    assert listener.marks == []
    assert [pushed.path for pushed in listener.ranges] == [record.path for record in session.stats.records]


def test_captures_that_overlap_leave_the_session_as_it_was(model: Any) -> None:
    with hook(model, emitter=(listener := Listener())) as session:
        first, second = session.captured("decode"), session.captured("decode")
        first.__enter__()
        second.__enter__()
        second.__exit__(None, None, None)
        first.__exit__(None, None, None)
        list(_steps(model))
    assert listener.stack == []
    assert {record.origin for record in session.stats.records if record.path == "model"} == {"call"}
