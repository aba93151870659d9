"""What hooks cost on this machine: the same decode step with and without them, in turns, in one run.

In every round each variant makes the same step once, in random order, so that clocks, cache length and temperature are
the same for all; a step's effect on the cache is undone before the next. A variant is methods put into the modules'
instances, and taken out again outside the measured time. Times are the host's, from an idle device to an idle device.
"""

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter_ns
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import nn

from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.hooks import HookSession, hook
from dsocr_nvtx.hooks.recorder import PYTHON, native_recorder
from dsocr_nvtx.run.decoding import Generation, Growing, Static, StepSession
from dsocr_nvtx.run.loop import Unobserved, decode_experts, start_pages
from dsocr_nvtx.run.workload import Workload, wait_for

BARE, AGAIN, HOOKS = "none", "none, again", "hooks"
EVENTS, OBSERVED = "hooks, events around steps", "hooks, experts observed"
IN_PYTHON = "hooks, recorder in Python"
MARKERS, FUNCTIONS = "string markers", "record_function"
_RESAMPLES = 2000
_WARM_ROUNDS = 3

_Method = Callable[..., Any]


@frozen(kw_only=True)
class Overhead:
    """What one variant costs: the median of paired differences to the bare step, with its 95% interval.

    ``calls`` are the ranges of one step, none in the bare step that is measured again; ``step_ns`` is the median step
    of this variant itself.
    """

    variant: str
    level: str
    decode: str
    rounds: int
    calls: int
    step_ns: int
    bare_ns: int
    cost_ns: int
    low_ns: int
    high_ns: int

    @property
    def per_call_ns(self) -> float:
        """Cost of one range."""
        return self.cost_ns / max(self.calls, 1)

    @property
    def share(self) -> float:
        """Cost as a part of the bare step."""
        return self.cost_ns / self.bare_ns


@frozen(kw_only=True)
class _Variant:
    """Methods to put into modules for one step, and the session that the step is announced to."""

    name: str
    methods: tuple[tuple[nn.Module, str, _Method], ...] = ()
    session: StepSession = field(factory=Unobserved)

    @contextmanager
    def installed(self) -> Iterator[None]:
        for owner, name, method in self.methods:
            owner.__dict__[name] = method
        try:
            yield
        finally:
            for owner, name, _ in self.methods:
                owner.__dict__.pop(name, None)


def measure_overhead(
    work: Workload, *, level: str, rounds: int, progress: Callable[[str, int], None] = lambda _stage, _step: None
) -> list[Overhead]:
    """Return the cost of every variant over ``rounds`` decode steps each, in the decode mode of the workload.

    Hooks record and no tool listens, unless one is attached to the process; eager and static decoding only, since a
    replayed graph calls no hooks.
    """
    # Room for every round: what undoes a step does not tell the hooks, who would read each call of a full cache anew.
    decoding = evolve(work.decoding, max_new_tokens=8, room=_WARM_ROUNDS + rounds + 8, stop_ids=())
    if decoding.mode == "graph":
        raise UsageError("--decode graph: a replayed graph calls no hooks, so they cost nothing; take eager or static")
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        state = start_pages(work.model, work.views.model_inputs(), work.prompt, decoding, Unobserved())
        stack.enter_context(decode_experts(work.model, decoding))
        variants = _variants(work.model, level, stack)
        sessions = {v.name: v.session for v in variants if isinstance(v.session, HookSession)}
        times: dict[str, list[int]] = {variant.name: [] for variant in variants}
        order, shuffled = random.Random(0), list(variants)  # noqa: S311 - an order, no secret
        for number in range(_WARM_ROUNDS + rounds):
            order.shuffle(shuffled)
            for variant in shuffled:
                times[variant.name].append(_timed_step(state, variant, work.device))
            progress("round", number)
        hooked = sessions[HOOKS]
        calls = round(hooked.stats.ranges / (_WARM_ROUNDS + rounds))
        _refuse_errors(sessions)
    kept = {name: taken[_WARM_ROUNDS:] for name, taken in times.items()}
    return [_overhead(name, kept, level, decoding.mode, calls if name != AGAIN else 0) for name in kept if name != BARE]


def _refuse_errors(sessions: dict[str, HookSession]) -> None:
    for session in sessions.values():
        if session.errors:
            raise UsageError(f"hooks failed, so their cost is not known: {session.errors[0]}")


def _variants(model: nn.Module, level: str, stack: ExitStack) -> list[_Variant]:
    hooked = _hooked(HOOKS, model, level, stack)
    places = [(owner, name) for owner, name, _ in hooked.methods]
    # The bare step twice: what one seems to cost beside the other is what this measurement cannot tell from nothing.
    found = [
        _Variant(name=BARE),
        _Variant(name=AGAIN),
        hooked,
        _hooked(EVENTS, model, level, stack, events="steps"),
        _hooked(OBSERVED, model, level, stack, observe_experts=True),
    ]
    if native_recorder() is not None:
        found.append(_hooked(IN_PYTHON, model, level, stack, recorder=PYTHON))
    for name, wrap in ((MARKERS, _marked()), (FUNCTIONS, _recorded)):
        if wrap is not None:
            methods = tuple((owner, method, wrap(owner, getattr(owner, method))) for owner, method in places)
            found.append(_Variant(name=name, methods=methods))
    return found


def _hooked(name: str, model: nn.Module, level: str, stack: ExitStack, **options: Any) -> _Variant:
    """Attach hooks and take them out again, kept as a variant; the model is bare until it is installed."""
    session = stack.enter_context(hook(model, level=level, record=True, **options))
    places = dict.fromkeys(session.attached)
    methods = tuple((owner, method, owner.__dict__.pop(method)) for owner, method in places)
    return _Variant(name=name, methods=methods, session=session)


def _marked() -> Callable[[nn.Module, _Method], _Method] | None:
    """Return what wraps a method in a range whose text tells the call's shapes, as serving engines do."""
    push: Callable[[str], object] = torch.cuda.nvtx.range_push
    pop: Callable[[], object] = torch.cuda.nvtx.range_pop
    if not torch.version.cuda:  # such a build of torch has no NVTX functions
        try:
            import nvtx
        except ImportError:
            return None
        push, pop = nvtx.push_range, nvtx.pop_range

    def wrap(owner: nn.Module, inner: _Method) -> _Method:
        name = type(owner).__name__

        def marked(*args: Any, **kwargs: Any) -> Any:
            shapes = [list(a.shape) for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
            push(str({"Module": name, "TrainableParams": 0, "Inputs": shapes}))
            try:
                return inner(*args, **kwargs)
            finally:
                pop()

        return marked

    return wrap


def _recorded(owner: nn.Module, inner: _Method) -> _Method:
    name = type(owner).__name__

    def recorded(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(name):
            return inner(*args, **kwargs)

    return recorded


def _timed_step(state: Generation, variant: _Variant, device: torch.device) -> int:
    with variant.installed(), undone(state):
        wait_for(device)
        start = perf_counter_ns()
        state.decode(variant.session)
        wait_for(device)
        return perf_counter_ns() - start


@contextmanager
def undone(state: Generation) -> Iterator[None]:
    """Put the generation back when the block ends, so that the next step is the same one."""
    if isinstance(state, Static):
        held = state.held
        with state.undone():
            yield
        state.held = held
        return
    assert isinstance(state, Growing)  # noqa: S101 - graphs are refused
    tokens, positions = state.tokens, state.positions
    yield
    state.tokens, state.positions = tokens, positions
    state.cache.crop(-1)


def _overhead(name: str, times: dict[str, list[int]], level: str, decode: str, calls: int) -> Overhead:
    differences = [on - off for on, off in zip(times[name], times[BARE], strict=True)]
    low, high = median_interval(differences)
    return Overhead(
        variant=name,
        level=level,
        decode=decode,
        rounds=len(differences),
        calls=calls,
        step_ns=round(statistics.median(times[name])),
        bare_ns=round(statistics.median(times[BARE])),
        cost_ns=round(statistics.median(differences)),
        low_ns=round(low),
        high_ns=round(high),
    )


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of the median of ``values``, by resampling them."""
    choose = random.Random(0)  # noqa: S311 - resampling, no secret
    medians = sorted(statistics.median(choose.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    cut = _RESAMPLES // 40
    return medians[cut], medians[-cut - 1]
