"""Which experts a run really hit: the router's choices, kept where they are and read when the run is over.

The indices with which routed experts are called are the router's, whatever the layout and implementation. A call keeps
a reference to that tensor: no launch, no copy, nothing read back, so that nothing waits and no layer is charged for it.
What it costs is that the few bytes of each call's indices stay allocated until the session is read.

The tensors of a step that was captured into a CUDA graph are overwritten by every launch of it, so each launch is
followed by one copy of all of them, outside the step.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from itertools import groupby
from typing import Any

import numpy as np
import torch
from attrs import define, evolve, field, frozen
from torch.compiler import is_compiling

from dsocr_nvtx.analytic.build import build_analytic_layers_from_config
from dsocr_nvtx.analytic.decoder import DeepseekV2DecoderLayer
from dsocr_nvtx.analytic.experts import DeepseekV2MoE, RoutedExperts
from dsocr_nvtx.hooks.parts import Binding
from dsocr_nvtx.hooks.quick import WIDTH as LOGGED
from dsocr_nvtx.hooks.quick import QuickFrame
from dsocr_nvtx.hooks.scripts import ScriptFrame, Words
from dsocr_nvtx.hooks.shared import Shared
from dsocr_nvtx.hooks.wrappers import Watch
from dsocr_nvtx.schema.payload import experts_mark
from dsocr_nvtx.schema.records import DTYPE_BYTES, CallShape, ExpertsCall, LayerKind, Stage

_STAGES = tuple(Stage)


@define(kw_only=True, eq=False)
class _Watched:
    """The routed experts of one layer, and the indices, [rows, top_k], that each call was given."""

    layer: int
    description: RoutedExperts
    dtype: str
    chosen: list[torch.Tensor] = field(factory=list)


@frozen(eq=False)
class _Held:
    """A call of experts that was captured into a CUDA graph: its range, its layer, its rows and its indices' number.

    Not the tensor that every launch overwrites: it is needed until the next capture only, launches are kept longer.
    """

    event_id: int
    number: int
    rows: int
    chosen: int


@frozen(eq=False)
class _Launch:
    """One launch of a captured step: which (-1: none is recorded), and the indices of all its calls, end to end."""

    held: list[_Held]
    replay: int
    stage: int
    step: int
    chosen: torch.Tensor


class ExpertsObserver:
    """Keeps what routers chose, call by call. ``enabled`` may be switched between calls; while off nothing is kept."""

    MOST_CALLS = 8192
    """Calls kept per layer: a text as long as the network can make. Later calls keep the expected number."""

    WIDTH = 6
    """Numbers kept per call: the range around it, stage, step, layer, rows, place in its list."""

    def __init__(self, shared: Shared, fail: Callable[[str, Exception], None]) -> None:
        self.enabled = True
        self.watches: dict[tuple[int, str], Watch] = {}
        self._shared, self._fail = shared, fail
        self._watched: list[_Watched] = []
        self._calls = array("q")
        self._taken: list[tuple[QuickFrame | ScriptFrame, list[Any]]] = []
        self._held: list[_Held] = []
        self._overwritten: list[torch.Tensor] = []
        self._launches: list[_Launch] = []
        shared.noted = self

    @property
    def wanted(self) -> bool:
        """Whether the next forward is to be noted: only notes are kept of it, until something is read."""
        return self.enabled and len(self._taken) < self.MOST_CALLS

    def take(self, frame: QuickFrame | ScriptFrame, notes: list[Any]) -> None:
        """Take what was noted in a forward: number, length of the log and indices, call after call."""
        self._taken.append((frame, notes))

    def watch(self, inner: Callable[..., Any], binding: Binding, description: RoutedExperts) -> Callable[..., Any]:
        """Return a method of routed experts, called with (rows, indices, ...), that first notes the indices."""
        layer = binding.place.layer
        if layer is None or next(binding.owner.parameters()).device.type == "meta":
            return inner
        self._watched.append(_Watched(layer=layer, description=description, dtype=binding.place.dtype))
        number = len(self._watched) - 1
        self.watches[id(binding.owner), binding.method] = Watch(number, inner)
        note = partial(self._note, number)

        @wraps(inner)
        def observed(*args: Any, **kwargs: Any) -> Any:
            if self.enabled and not is_compiling():
                try:
                    note(args[1] if len(args) > 1 else kwargs["top_k_index"])
                except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                    self._fail("observer", error)
            return inner(*args, **kwargs)

        return observed

    def _note(self, number: int, indices: torch.Tensor) -> None:
        shared = self._shared
        state = shared.threads.state
        if state.token is not None:  # calls are only timed: which range this is, is known when the forward is over
            if state.notes is not None:
                state.notes += (number, len(state.log), indices)
            return
        if not state.open or shared.muted:
            return
        if shared.capturing:
            self._held.append(_Held(state.open[-1][0], number, indices.shape[0], indices.numel()))
            self._overwritten.append(indices)
            return
        if shared.is_capturing():  # into a graph whose launches nobody tells of
            return
        self._settle()
        event_id, stage = state.open[-1][:2]
        self._keep(event_id, stage, max(shared.counters.steps[stage], 0), number, indices)

    def _keep(self, event_id: int, stage: int, step: int, number: int, indices: torch.Tensor) -> None:
        chosen = self._watched[number].chosen
        if len(chosen) < self.MOST_CALLS:
            self._calls.extend((event_id, stage, step, number, indices.shape[0], len(chosen)))
            chosen.append(indices)

    def _settle(self) -> None:
        """Work out which calls the notes of whole forwards speak of."""
        taken, self._taken = self._taken, []
        for frame, notes in taken:
            for number, logged, indices in zip(notes[::3], notes[1::3], notes[2::3], strict=True):
                self._keep(frame.event_at(logged // LOGGED), frame.stage, frame.step, number, indices)

    def captures(self) -> None:
        """Hear that a step is about to be captured into a CUDA graph: launches are of that one from now on."""
        self._held, self._overwritten = [], []

    def release(self) -> None:
        """Let go of the model's modules and of its graph's tensors; what was noted can still be read."""
        self.watches.clear()
        self._overwritten, self._held = [], []

    def launched(self, replay: int, stage: int, step: int) -> None:
        """Hear that the step captured last was launched: copy what it chose before the next launch overwrites it."""
        if self.enabled and self._held and len(self._launches) < self.MOST_CALLS and not self._shared.muted:
            chosen = torch.cat([indices.reshape(-1) for indices in self._overwritten])
            self._launches.append(_Launch(self._held, replay, stage, step, chosen))

    def clear(self) -> None:
        """Forget every call."""
        del self._calls[:]
        self._taken.clear()
        self._launches.clear()
        for watched in self._watched:
            watched.chosen.clear()

    def read(self, ids: Sequence[Mapping[int, int]] = ()) -> list[ExpertsCall]:
        """Return how many rows each expert got: calls in their order, then those of launched graphs in theirs.

        ``ids`` are, of each recorded launch, the event ids of its calls by those of the calls captured. Waits for the
        device.
        """
        self._settle()
        counts = [_rows_per_expert(watched) for watched in self._watched]
        calls = [
            self._call(counts[number][index], event_id, stage, step, number, rows)
            for event_id, stage, step, number, rows, index in self._noted()
        ]
        return [*calls, *self._launched_calls(ids)]

    def _launched_calls(self, ids: Sequence[Mapping[int, int]]) -> Iterator[ExpertsCall]:
        """Yield the calls of launched graphs; what all launches of one capture chose is brought over in one copy."""
        for held, launches in groupby(self._launches, key=lambda launch: launch.held):
            several = list(launches)
            chosen = torch.stack([launch.chosen for launch in several]).cpu().numpy()
            edges = np.cumsum([0, *(call.chosen for call in held)]).tolist()
            for launch, row in zip(several, chosen, strict=True):
                known = ids[launch.replay] if 0 <= launch.replay < len(ids) else {}
                for call, start, end in zip(held, edges[:-1], edges[1:], strict=True):
                    watched, rows = self._watched[call.number], call.rows
                    (counts,) = _histograms(watched, row[start:end], np.zeros(end - start, np.int64), 1)
                    event_id = known.get(call.event_id, call.event_id)
                    told = self._call(counts, event_id, launch.stage, launch.step, call.number, rows)
                    yield evolve(told, captured_id=call.event_id)

    def _noted(self) -> Iterator[tuple[int, ...]]:
        return (tuple(self._calls[at : at + self.WIDTH]) for at in range(0, len(self._calls), self.WIDTH))

    def _call(self, counts: list[int], event_id: int, stage: int, step: int, number: int, rows: int) -> ExpertsCall:
        watched = self._watched[number]
        description, shape = watched.description, CallShape(tokens=rows, dtype=watched.dtype)
        return ExpertsCall(
            event_id=event_id,
            stage=_STAGES[stage],
            step=step,
            layer=watched.layer,
            rows=rows,
            rows_per_expert=tuple(counts),
            expected_experts=description.distinct(rows),
            expected_weight_bytes=description.own(shape).weight_bytes,
            expert_bytes=description.expert_parameters * DTYPE_BYTES[watched.dtype],
        )


def _rows_per_expert(watched: _Watched) -> list[list[int]]:
    """Return the histogram of every call of a layer, its indices brought over in one copy."""
    if not watched.chosen:
        return []
    flat = torch.cat([chosen.reshape(-1) for chosen in watched.chosen]).cpu().numpy()
    call = np.repeat(np.arange(len(watched.chosen)), [chosen.numel() for chosen in watched.chosen])
    return _histograms(watched, flat, call, len(watched.chosen))


def _histograms(watched: _Watched, chosen: Words, call: Words, calls: int) -> list[list[int]]:
    """Return how many rows each expert got in each call, of what was chosen and in which call."""
    experts = watched.description.experts
    if chosen.size and (chosen.min() < 0 or chosen.max() >= experts):
        raise ValueError(f"layer {watched.layer}: an expert's number outside 0 to {experts - 1}")
    found: list[list[int]] = (
        np.bincount(call * experts + chosen, minlength=calls * experts).reshape(-1, experts).tolist()
    )
    return found


def watched_experts(model: Any, bindings: list[Binding]) -> Iterator[tuple[Binding, RoutedExperts]]:
    """Yield every binding of routed experts with the description of their layer."""
    layers: tuple[DeepseekV2DecoderLayer, ...] = build_analytic_layers_from_config(model.config).layers
    for binding in bindings:
        if binding.place.kind is LayerKind.EXPERTS and binding.place.layer is not None:
            mixture = layers[binding.place.layer].mlp
            assert isinstance(mixture, DeepseekV2MoE)  # noqa: S101 - it was bound by this description
            yield binding, mixture.experts


def marks(calls: list[ExpertsCall]) -> list[str]:
    """Return the announcements of what was observed: one per stage and step, for all layers together.

    Of a launched graph they name the calls that were captured: what a report knows of a launch is its step.
    """
    grouped: dict[tuple[int, int, int, int], list[tuple[int, int]]] = defaultdict(list)
    for call in calls:
        key = (_STAGES.index(call.stage), call.step, call.expert_bytes, call.expected_weight_bytes)
        grouped[key].append((call.event_id if call.captured_id is None else call.captured_id, call.distinct))
    return [experts_mark(*key, hits) for key, hits in grouped.items()]
