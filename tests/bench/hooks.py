"""Times what hooks add to one static decode step of the small network on a CPU, part by part.

``python -m tests.bench.hooks`` prints microseconds of the thread's own CPU time, with each recorder. A replica of a
step makes the calls that the real one makes, in the same order with the same arguments, and computes nothing: what it
takes longer when it is hooked is the hooks' alone. Only ratios within one run count; set PYTHONPATH to the source of
another commit to time that one's hooks.
"""

import argparse
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import thread_time_ns
from typing import Any

import torch
from attrs import define, field
from torch import nn

from dsocr_nvtx.hooks import hook
from dsocr_nvtx.hooks.emit import Silent
from dsocr_nvtx.run.loop import Decoding, Unobserved, decode_experts, start_pages
from dsocr_nvtx.run.model import CACHE_ARGUMENT, random_model, tiny_config
from dsocr_nvtx.run.prompt import prompt_ids
from tests.hooks.networks import page

_Method = Callable[..., Any]
ROUNDS = 400
CACHE = 1 << 20
"""Bytes that are copied to empty a core's own caches, as a model's operations between two calls do."""


class Deaf(Silent):
    """Stands for a tool that listens, and that takes no time."""

    active = announces = True


@define(eq=False)
class Replayed:
    """One call of a hooked method, and the calls inside of it."""

    owner: nn.Module
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any = None
    inside: list["Replayed"] = field(factory=list)

    def __call__(self) -> Any:
        """Make the call as a model makes it: by the name of the method."""
        return getattr(self.owner, self.method)(*self.args, **self.kwargs)

    def replica(self, evict: Callable[[], object]) -> _Method:
        """Return a method that makes the calls inside and returns what the real one returned; ``evict`` before each."""

        def run(*_args: Any, **_kwargs: Any) -> Any:
            for call in self.inside:
                evict()
                call()
            evict()
            return self.result

        return run


class StaticStep:
    """A decode step of the small network with a static cache, and its replica."""

    def __init__(self, level: str) -> None:
        self.model = random_model(tiny_config(), dtype=torch.float32, seed=1, attention="sdpa", experts="grouped_mm")
        views = page()
        decoding = Decoding(max_new_tokens=8, room=8 * ROUNDS, mode="static")
        ids = prompt_ids(views.image_tokens(), self.model.config)
        self.state = start_pages(self.model, views.model_inputs(), ids, decoding, Unobserved())
        self.decoding = decoding
        with hook(self.model, level=level) as session:
            self.places = [place for place in session.attached if place[1] in ("forward", "moe_infer")]
        with decode_experts(self.model, decoding):
            self.root = self._recorded()
        self.counters = [layer.cumulative_length for layer in self.root.kwargs[CACHE_ARGUMENT].layers]

    def _recorded(self) -> Replayed:
        """Run a step, and return its calls."""
        around = [Replayed(self.model, "step", (), {})]
        for owner, name in self.places:
            owner.__dict__[name] = self._noting(owner, name, around)
        self.state.decode(Unobserved())
        for owner, name in self.places:
            del owner.__dict__[name]
        return around[0].inside[0]

    @staticmethod
    def _noting(owner: nn.Module, name: str, around: list[Replayed]) -> _Method:
        inner = getattr(owner, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            call = Replayed(owner, name, args, kwargs)
            around[-1].inside.append(call)
            around.append(call)
            call.result = inner(*args, **kwargs)
            around.pop()
            return call.result

        return noted

    @contextmanager
    def replicas(self, evict: Callable[[], object]) -> Iterator[None]:
        """Put replicas into the place of the methods; hooks go around them."""
        calls = [self.root]
        for call in calls:
            call.owner.__dict__[call.method] = call.replica(evict)
            calls += call.inside
        inside = self.model.__dict__["forward"]

        def whole(*args: Any, **kwargs: Any) -> Any:
            result = inside(*args, **kwargs)
            for counter in self.counters:  # as the cache's layers do
                counter.add_(1)
            return result

        self.model.__dict__["forward"] = whole
        try:
            yield
        finally:
            for call in calls:
                call.owner.__dict__.pop(call.method, None)

    def alone(self) -> None:
        """Run the forward, and nothing inside of it."""
        inside, self.root.inside = self.root.inside, []
        try:
            self.root()
        finally:
            self.root.inside = inside

    def sites(self) -> int:
        """Return how many hooked calls lie inside the forward."""
        calls = [self.root]
        for call in calls:
            calls += call.inside
        return len(calls) - 1


def parts(level: str, recorder: str, *, listened: bool, cold: bool) -> dict[str, float]:
    """Return the microseconds of every part of a hooked step; ``cold``: between calls the caches are emptied.

    Each is the median of differences between two calls in a row, since what else runs here comes and goes.
    """
    evict = bytearray(CACHE).copy if cold else int
    bare, hooked = StaticStep(level), StaticStep(level)
    with (
        torch.inference_mode(),
        decode_experts(bare.model, bare.decoding),
        decode_experts(hooked.model, hooked.decoding),
        bare.replicas(evict),
        hooked.replicas(evict),
        hook(hooked.model, level=level, recorder=recorder, emitter=Deaf() if listened else None) as session,
    ):
        # The last call that is timed before each of these leaves the processor's caches alike.
        taken = [
            (timed(bare.root), timed(_in_step(session, hooked.root)), timed(bare.alone),
             timed(_in_step(session, hooked.alone)), timed(_in_step(session, _nothing)), timed(_nothing))
            for _ in range(ROUNDS)
        ][ROUNDS // 5 :]  # fmt: skip
        if session.errors:
            raise SystemExit(f"hooks failed: {session.errors[0]}")
    step = median(around - nothing for *_, around, nothing in taken)
    entry = median(hooked_alone - bare_alone for _, _, bare_alone, hooked_alone, *_ in taken) - step
    whole = median(on - off for off, on, *_ in taken)
    sites = hooked.sites()
    each = (whole - entry - step) / max(sites, 1)
    return {"step": step, "entry": entry, "each site": each, "sites": sites, "all": whole}


def timed(run: Callable[[], object]) -> float:
    """Return the microseconds of one call."""
    begun = thread_time_ns()
    run()
    return (thread_time_ns() - begun) / 1e3


def _in_step(session: Any, run: Callable[[], object]) -> Callable[[], object]:
    def stepped() -> None:
        with session.step("decode"):
            run()

    return stepped


def _nothing() -> None:
    """Run nothing."""


def main() -> None:
    """Print a table: every level and recorder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--levels", nargs="+", default=["layer", "op"])
    parser.add_argument("--recorders", nargs="+", default=["native", "python"])
    parser.add_argument("--cold", action="store_true", help="Empty the caches between calls.")
    arguments = parser.parse_args()
    gc.disable()
    for level in arguments.levels:
        for recorder in arguments.recorders:
            for listened in (False, True):
                found = parts(level, recorder, listened=listened, cold=arguments.cold)
                heard = "heard" if listened else "silent"
                print(f"{level:6}{recorder:7}{heard:7}", *(f"{k} {value:.2f}" for k, value in found.items()), sep="  ")


if __name__ == "__main__":
    main()
