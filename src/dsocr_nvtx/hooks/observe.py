"""Which experts a run really hit: the router's choices, kept where they are and read when the run is over.

The indices with which routed experts are called are the router's, whatever the layout and implementation. A call keeps
a reference to that tensor: no launch, no copy, nothing read back, so that nothing waits and no layer is charged for it.
What it costs is that the few bytes of each call's indices stay allocated until the session is read.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import numpy as np
import torch
from attrs import define, field
from torch.compiler import is_compiling

from dsocr_nvtx.analytic.build import build_analytic_layers_from_config
from dsocr_nvtx.analytic.decoder import DeepseekV2DecoderLayer
from dsocr_nvtx.analytic.experts import DeepseekV2MoE, RoutedExperts
from dsocr_nvtx.hooks.parts import Binding
from dsocr_nvtx.hooks.quick import WIDTH as LOGGED
from dsocr_nvtx.hooks.tap import Shared
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


class ExpertsObserver:
    """Keeps what routers chose, call by call. ``enabled`` may be switched between calls; while off nothing is kept."""

    MOST_CALLS = 8192
    """Calls kept per layer: a text as long as the network can make. Later calls keep the expected number."""

    WIDTH = 7
    """Numbers kept per call: the open range, the calls ended by then, stage, step, layer, rows, place in its list."""

    def __init__(self, shared: Shared, fail: Callable[[str, Exception], None]) -> None:
        self.enabled = True
        self._shared, self._fail = shared, fail
        self._watched: list[_Watched] = []
        self._calls = array("q")

    def watch(self, inner: Callable[..., Any], binding: Binding, description: RoutedExperts) -> Callable[..., Any]:
        """Return a method of routed experts, called with (rows, indices, ...), that first notes the indices."""
        layer = binding.place.layer
        if layer is None or next(binding.owner.parameters()).device.type == "meta":
            return inner
        self._watched.append(_Watched(layer=layer, description=description, dtype=binding.place.dtype))
        note = partial(self._note, len(self._watched) - 1)

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
        shared, watched = self._shared, self._watched[number]
        state = shared.threads.state
        around = state.open
        if not around or shared.muted or len(watched.chosen) >= self.MOST_CALLS:
            return
        ended = 0
        if state.token is not None:  # calls are only timed: which range this is, is known when the forward is over
            ended = len(state.log) // LOGGED
        elif shared.is_capturing():  # what a CUDA graph is captured with is overwritten by every replay
            return
        event_id, stage = around[-1][:2]
        step = max(shared.counters.steps[stage], 0)
        self._calls.extend((event_id, ended, stage, step, number, indices.shape[0], len(watched.chosen)))
        watched.chosen.append(indices)

    def clear(self) -> None:
        """Forget every call."""
        del self._calls[:]
        for watched in self._watched:
            watched.chosen.clear()

    def read(self) -> list[ExpertsCall]:
        """Return how many rows each expert got, call by call, in the order of the calls. Waits for the device."""
        counts = [_rows_per_expert(watched) for watched in self._watched]
        frames = self._shared.rows.frames() if self._shared.rows is not None else {}
        return [
            self._call(
                counts[number][index],
                frames[event_id].event_at(ended) if event_id in frames else event_id,
                stage,
                step,
                number,
                rows,
            )
            for event_id, ended, stage, step, number, rows, index in self._noted()
        ]

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
    experts = watched.description.experts
    flat = torch.cat([chosen.reshape(-1) for chosen in watched.chosen]).cpu().numpy()
    call = np.repeat(np.arange(len(watched.chosen)), [chosen.numel() for chosen in watched.chosen])
    if flat.size and (flat.min() < 0 or flat.max() >= experts):
        raise ValueError(f"layer {watched.layer}: an expert's number outside 0 to {experts - 1}")
    counted = np.bincount(call * experts + flat, minlength=len(watched.chosen) * experts)
    histograms: list[list[int]] = counted.reshape(-1, experts).tolist()
    return histograms


def watched_experts(model: Any, bindings: list[Binding]) -> Iterator[tuple[Binding, RoutedExperts]]:
    """Yield every binding of routed experts with the description of their layer."""
    layers: tuple[DeepseekV2DecoderLayer, ...] = build_analytic_layers_from_config(model.config).layers
    for binding in bindings:
        if binding.place.kind is LayerKind.EXPERTS and binding.place.layer is not None:
            mixture = layers[binding.place.layer].mlp
            assert isinstance(mixture, DeepseekV2MoE)  # noqa: S101 - it was bound by this description
            yield binding, mixture.experts


def marks(calls: list[ExpertsCall]) -> list[str]:
    """Return the announcements of what was observed: one per stage and step, for all layers together."""
    grouped: dict[tuple[int, int, int, int], list[tuple[int, int]]] = defaultdict(list)
    for call in calls:
        key = (_STAGES.index(call.stage), call.step, call.expert_bytes, call.expected_weight_bytes)
        grouped[key].append((call.event_id, call.distinct))
    return [experts_mark(*key, hits) for key, hits in grouped.items()]
