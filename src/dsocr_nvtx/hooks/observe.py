"""Which experts a run really hit: the router's choices counted on the model's own device, read when the run is over.

The indices with which routed experts are called are the router's, whatever the layout and implementation. Each call
adds them to a row of a buffer that was made beforehand: one launch, no allocation, nothing read back, so nothing waits.
The launch has a range of its own where ranges are that fine, so that no layer is charged for it.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import torch
from attrs import define
from torch.compiler import is_compiling

from dsocr_nvtx.analytic.build import build_analytic_layers_from_config
from dsocr_nvtx.analytic.decoder import DeepseekV2DecoderLayer
from dsocr_nvtx.analytic.experts import DeepseekV2MoE, RoutedExperts
from dsocr_nvtx.hooks.parts import Binding
from dsocr_nvtx.hooks.places import Place, no_key, nothing
from dsocr_nvtx.hooks.tap import Shared, Tap
from dsocr_nvtx.schema.payload import experts_mark
from dsocr_nvtx.schema.records import DTYPE_BYTES, CallShape, ExpertsCall, LayerKind, Level, Stage

_STAGES = tuple(Stage)
_SCRATCH = 0
"""The row that muted calls count into."""


@define(kw_only=True, eq=False)
class _Watched:
    """The routed experts of one layer, and a buffer with a row per call and a column per expert."""

    layer: int
    description: RoutedExperts
    dtype: str
    counts: torch.Tensor
    one: torch.Tensor
    used: int = _SCRATCH + 1


class ExpertsObserver:
    """Counts rows per expert, call by call. ``enabled`` may be switched between calls; what is off costs nothing."""

    MOST_CALLS = 8192
    """Calls kept per layer: a text as long as the network can make. Later calls keep the expected number."""

    WIDTH = 6

    def __init__(self, shared: Shared, level: Level, fail: Callable[[str, Exception], None]) -> None:
        self.enabled = True
        self._shared, self._fail = shared, fail
        self._watched: list[_Watched] = []
        self._calls = array("q")
        # A stage's range is the only one at its level: a finer one would make the report look finer than it is.
        self._tap = None if level is Level.STAGE else Tap(_place(level), shared)

    def watch(self, inner: Callable[..., Any], binding: Binding, description: RoutedExperts) -> Callable[..., Any]:
        """Return a method of routed experts, called with (rows, indices, ...), that counts before it runs."""
        device = next(binding.owner.parameters()).device
        if device.type == "meta" or binding.place.layer is None:
            return inner
        size = (_SCRATCH + 1 + self.MOST_CALLS, description.experts)
        with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside of it
            watched = _Watched(
                layer=binding.place.layer,
                description=description,
                dtype=binding.place.dtype,
                counts=torch.zeros(size, dtype=torch.int32, device=device),
                one=torch.ones(1, dtype=torch.int32, device=device),
            )
        self._watched.append(watched)
        bare = partial(self._count, len(self._watched) - 1, device.type == "cuda")
        count = bare if self._tap is None else self._tap.around(bare, self._fail)

        @wraps(inner)
        def observed(*args: Any, **kwargs: Any) -> Any:
            if self.enabled and not is_compiling():
                try:
                    count(args[1] if len(args) > 1 else kwargs["top_k_index"])
                except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                    self._fail("observer", error)
            return inner(*args, **kwargs)

        return observed

    def _count(self, number: int, is_cuda: bool, indices: torch.Tensor) -> None:
        if self._shared.capturing or (is_cuda and torch.cuda.is_current_stream_capturing()):
            return  # a graph would add every replay into the row of its capture
        watched = self._watched[number]
        row = _SCRATCH if self._shared.muted else self._next_row(number, watched, indices.shape[0])
        if row is not None:
            flat = indices.reshape(-1)
            watched.counts[row].scatter_add_(0, flat, watched.one.expand(flat.shape[0]))

    def _next_row(self, number: int, watched: _Watched, rows: int) -> int | None:
        """Return a free row of a layer's buffer, the call noted; None where there is none, or no range to belong to."""
        around = self._shared.threads.state.open
        own = 1 if self._tap is not None and around and around[-1][2] is self._tap.place else 0
        row = watched.used
        if len(around) <= own or row > self.MOST_CALLS:
            return None
        event_id, stage = around[-1 - own][:2]
        step = max(self._shared.counters.steps[stage], 0)
        self._calls.extend((event_id, stage, step, number, rows, row))
        watched.used += 1
        return row

    def clear(self) -> None:
        """Forget every call."""
        del self._calls[:]
        for watched in self._watched:
            watched.counts.zero_()
            watched.used = _SCRATCH + 1

    def read(self) -> list[ExpertsCall]:
        """Return what was counted, in the order of the calls. Waits for the device."""
        hosts = [watched.counts[: watched.used].cpu().tolist() for watched in self._watched]
        return [
            self._call(hosts[number][row], event_id, stage, step, number, rows)
            for event_id, stage, step, number, rows, row in self._noted()
        ]

    def _noted(self) -> Iterator[tuple[int, ...]]:
        return (tuple(self._calls[at : at + self.WIDTH]) for at in range(0, len(self._calls), self.WIDTH))

    def _call(self, counts: list[int], event_id: int, stage: int, step: int, number: int, rows: int) -> ExpertsCall:
        watched = self._watched[number]
        description, shape = watched.description, CallShape(tokens=rows, dtype=watched.dtype)
        expert_bytes = description.expert_parameters * DTYPE_BYTES[watched.dtype]
        return ExpertsCall(
            event_id=event_id,
            stage=_STAGES[stage],
            step=step,
            layer=watched.layer,
            rows=rows,
            rows_per_expert=tuple(counts),
            expected_experts=description.distinct(rows),
            expected_weight_bytes=description.own(shape).weight_bytes,
            expert_bytes=expert_bytes,
        )


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


def _place(level: Level) -> Place:
    return Place(path="observer", kind=LayerKind.REST, level=level, layer=None, read=no_key, price=nothing)
