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
from functools import wraps
from itertools import groupby
from typing import Any

import numpy as np
import torch
from attrs import define, evolve, field, frozen

from dsocr_nvtx.analytic.experts import RoutedExperts
from dsocr_nvtx.hooks.caches import Unreadable
from dsocr_nvtx.hooks.forwards import Forwards
from dsocr_nvtx.hooks.prices import Words
from dsocr_nvtx.hooks.sites import Binding
from dsocr_nvtx.hooks.threads import Frame
from dsocr_nvtx.schema.payload import experts_mark
from dsocr_nvtx.schema.records import CallShape, ExpertsCall, Stage, code_of

_STAGES = tuple(Stage)


@define(kw_only=True, eq=False)
class ObservedLayer:
    """The routed experts of one layer, and the indices, [rows, top_k], that each call was given."""

    layer: int
    description: RoutedExperts
    dtype: str
    chosen: list[torch.Tensor] = field(factory=list)


@frozen(eq=False)
class CapturedCall:
    """A call of experts that was captured into a CUDA graph: its range, its layer, its rows and its indices' number.

    Not the tensor that every launch overwrites: it is needed until the next capture only, launches are kept longer.
    """

    event_id: int
    number: int
    rows: int
    chosen: int


@frozen(eq=False)
class Launch:
    """One launch of a captured step: which (-1: none is recorded), and the indices of all its calls, end to end."""

    captured: list[CapturedCall]
    replay: int
    stage: Stage
    step: int
    chosen: torch.Tensor


class ExpertsObserver:
    """Keeps what routers chose, call by call. ``enabled`` may be switched between calls; while off nothing is kept."""

    MOST_CALLS = 8192
    """Calls kept per layer: a text as long as the network can make. Later calls keep the expected number."""

    _WIDTH = 6
    """Numbers kept per call: the range around it, stage, step, layer, rows, place in its list."""

    def __init__(self, forwards: Forwards, fail: Callable[[str, Exception], None]) -> None:
        self.enabled = True
        self._forwards = forwards
        self._fail = fail
        self._layers: list[ObservedLayer] = []
        self._calls = array("q")
        self._captured: list[CapturedCall] = []
        self._overwritten: list[torch.Tensor] = []
        self._launches: list[Launch] = []

    def watch(self, inner: Callable[..., Any], binding: Binding, *, innermost: bool) -> Callable[..., Any]:
        """Return a method of routed experts that first notes the indices it is called with.

        ``innermost``: the newest range on the thread is the one around the call; else it is the forward's own.
        """
        layer, description = binding.site.layer, binding.site.description
        if layer is None or next(binding.owner.parameters()).device.type == "meta":
            return inner
        assert isinstance(description, RoutedExperts)  # noqa: S101 - it was bound by this description
        self._layers.append(ObservedLayer(layer=layer, description=description, dtype=binding.site.dtype))
        number, forwards, top_k = len(self._layers) - 1, self._forwards, description.top_k

        @wraps(inner)
        def observed(*args: Any, **kwargs: Any) -> Any:
            state = forwards.threads.state
            if self.enabled and state.frame is not None and not (forwards.muted or forwards.closed):
                try:
                    event_id = state.next_id - 1 if innermost else state.frame.event_id
                    self._note(state.frame, event_id, number, _indices(args, kwargs, top_k))
                except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                    self._fail("observer", error)
            return inner(*args, **kwargs)

        return observed

    def _note(self, frame: Frame, event_id: int, number: int, indices: torch.Tensor) -> None:
        if frame.captured:
            self._captured.append(CapturedCall(event_id, number, indices.shape[0], indices.numel()))
            self._overwritten.append(indices)
            return
        chosen = self._layers[number].chosen
        if len(chosen) < self.MOST_CALLS:
            told = (event_id, code_of(frame.stage), frame.step, number, indices.shape[0], len(chosen))
            self._calls.extend(told)
            chosen.append(indices)

    def begin_capture(self) -> None:
        """Hear that a step is about to be captured into a CUDA graph: launches are of that one from now on."""
        self._captured, self._overwritten = [], []

    def release(self) -> None:
        """Let go of a graph's tensors; what was noted can still be read."""
        self.begin_capture()

    def launched(self, replay: int, stage: Stage, step: int) -> None:
        """Hear that the step captured last was launched: copy what it chose before the next launch overwrites it."""
        if self.enabled and self._captured and len(self._launches) < self.MOST_CALLS:
            chosen = torch.cat([indices.reshape(-1) for indices in self._overwritten])
            self._launches.append(Launch(self._captured, replay, stage, step, chosen))

    def clear(self) -> None:
        """Forget every call."""
        del self._calls[:]
        self._launches.clear()
        for layer in self._layers:
            layer.chosen.clear()

    def read(self, ids: Sequence[Mapping[int, int]] = ()) -> list[ExpertsCall]:
        """Return how many rows each expert got: calls in their order, then those of launched graphs in theirs.

        ``ids`` are, of each recorded launch, the event ids of its calls by those of the calls captured. Waits for the
        device.
        """
        counts = [_rows_per_expert(layer) for layer in self._layers]
        calls = [
            self._call(counts[number][index], event_id, _STAGES[stage], step, number, rows)
            for event_id, stage, step, number, rows, index in self._noted()
        ]
        return [*calls, *self._launched_calls(ids)]

    def _launched_calls(self, ids: Sequence[Mapping[int, int]]) -> Iterator[ExpertsCall]:
        """Yield the calls of launched graphs; what all launches of one capture chose is brought over in one copy."""
        for captured, launches in groupby(self._launches, key=lambda launch: launch.captured):
            several = list(launches)
            chosen = torch.stack([launch.chosen for launch in several]).cpu().numpy()
            edges = np.cumsum([0, *(call.chosen for call in captured)]).tolist()
            for launch, row in zip(several, chosen, strict=True):
                known = ids[launch.replay] if 0 <= launch.replay < len(ids) else {}
                for call, start, end in zip(captured, edges[:-1], edges[1:], strict=True):
                    layer, rows = self._layers[call.number], call.rows
                    (counts,) = _histograms(layer, row[start:end], np.zeros(end - start, np.int64), 1)
                    event_id = known.get(call.event_id, call.event_id)
                    told = self._call(counts, event_id, launch.stage, launch.step, call.number, rows)
                    yield evolve(told, captured_id=call.event_id)

    def _noted(self) -> Iterator[tuple[int, ...]]:
        return (tuple(self._calls[at : at + self._WIDTH]) for at in range(0, len(self._calls), self._WIDTH))

    def _call(self, counts: list[int], event_id: int, stage: Stage, step: int, number: int, rows: int) -> ExpertsCall:
        layer = self._layers[number]
        description, shape = layer.description, CallShape(tokens=rows, dtype=layer.dtype)
        return ExpertsCall(
            event_id=event_id,
            stage=stage,
            step=step,
            layer=layer.layer,
            rows=rows,
            rows_per_expert=tuple(counts),
            expected_experts=description.distinct(rows),
            expected_weight_bytes=description.own(shape).weight_bytes,
            expert_bytes=round(description.expert_bytes(shape.itemsize)),
        )


def _indices(args: tuple[Any, ...], kwargs: dict[str, Any], top_k: int) -> torch.Tensor:
    """Return the first tensor of whole numbers [rows, top_k] among a call's arguments."""
    for value in (*args, *kwargs.values()):
        is_table = isinstance(value, torch.Tensor) and value.dim() == 2 and not value.is_floating_point()
        if is_table and value.shape[1] == top_k:
            found: torch.Tensor = value
            return found
    raise Unreadable(f"no tensor of {top_k} indices a row among its arguments")


def _rows_per_expert(layer: ObservedLayer) -> list[list[int]]:
    """Return the histogram of every call of a layer, its indices brought over in one copy."""
    if not layer.chosen:
        return []
    flat = torch.cat([chosen.reshape(-1) for chosen in layer.chosen]).cpu().numpy()
    call = np.repeat(np.arange(len(layer.chosen)), [chosen.numel() for chosen in layer.chosen])
    return _histograms(layer, flat, call, len(layer.chosen))


def _histograms(layer: ObservedLayer, chosen: Words, call: Words, calls: int) -> list[list[int]]:
    """Return how many rows each expert got in each call, of what was chosen and in which call."""
    experts = layer.description.experts
    if chosen.size and (chosen.min() < 0 or chosen.max() >= experts):
        raise ValueError(f"layer {layer.layer}: an expert's number outside 0 to {experts - 1}")
    found: list[list[int]] = (
        np.bincount(call * experts + chosen, minlength=calls * experts).reshape(-1, experts).tolist()
    )
    return found


def marks(calls: list[ExpertsCall]) -> list[str]:
    """Return the announcements of what was observed: one per stage and step, for all layers together.

    Of a launched graph they name the calls that were captured: what a report knows of a launch is its step.
    """
    grouped: dict[tuple[int, int, int, int], list[tuple[int, int]]] = defaultdict(list)
    for call in calls:
        key = (code_of(call.stage), call.step, call.expert_bytes, call.expected_weight_bytes)
        grouped[key].append((call.event_id if call.captured_id is None else call.captured_id, call.distinct))
    return [experts_mark(*key, hits) for key, hits in grouped.items()]
