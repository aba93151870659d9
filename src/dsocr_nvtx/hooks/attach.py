"""`with hook(model):` puts ranges around the parts of a model; leaving the block takes every one of them away."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from dsocr_nvtx.errors import Refused, UsageError
from dsocr_nvtx.hooks.bindings import bindings
from dsocr_nvtx.hooks.emit import Edges, Emitter, Silent, nvtx_emitter
from dsocr_nvtx.hooks.events import EventRecorder, Events
from dsocr_nvtx.hooks.session import HookSession
from dsocr_nvtx.hooks.shared import stream_is_capturing
from dsocr_nvtx.hooks.stats import use_analytic_run_stats
from dsocr_nvtx.schema.records import Level


@contextmanager
def hook(
    model: nn.Module,
    *,
    level: str = "op",
    events: str = Events.NONE,
    record: bool = True,
    observe_experts: bool = False,
    emitter: Emitter | None = None,
) -> Iterator[HookSession]:
    """Emit a range around every call of the model's stages, layers or operations, down to ``level``.

    Each range carries its analytic cost to the NVTX tool that is attached, if one is; with ``record`` the calls are
    also kept in the session's ``stats``. With ``events``, and the model on a GPU, CUDA events are recorded around each
    stage's ``steps``, or around all ``ranges``; by default around none, since two of them cost as much as several
    ranges. With no tool and no ``record``, and with ``DSOCR_NVTX=0`` in the environment, nothing is attached at all.
    ``emitter`` replaces NVTX: `edge_emitter`, or one for tests.

    With ``observe_experts`` every call of routed experts keeps the router's indices, on the model's device.
    They are counted when the block ends (or earlier, by the session's ``publish_experts``): they are in ``stats``
    and, for a tool that listens, in marks. Calls in a CUDA graph are counted launch by launch where the session hears
    of them (`HookSession.captured`).

    Outputs are those of the model without hooks, bit for bit: only shapes are read. Before anything is attached, raises
    `UsageError` for an unknown level or kind of ``events``, and `Refused` for a model that is not DeepSeek-OCR's.
    """
    if level not in set(Level):
        raise UsageError(f"no level is called {level!r}; say one of {', '.join(Level)}")
    if events not in set(Events):
        raise UsageError(f"events are recorded around {', '.join(Events)}, not {events!r}")
    if not isinstance(model, nn.Module):
        raise Refused(type(model).__name__, "no torch module", "hook DeepSeek-OCR's whole model")
    off = os.environ.get("DSOCR_NVTX") == "0"
    session = HookSession(
        Silent() if off else (emitter or nvtx_emitter()),
        record=record and not off,
        make_event=_event_maker(model),
        events=Events(events),
    )
    use_analytic_run_stats(session.stats)
    found = [] if session.off else bindings(model, Level(level))
    try:
        if observe_experts and not session.off:
            session.observe_experts(model, bindings(model, Level.OP))
        for binding in found:
            session.wrap(binding.owner, binding.method, binding.place)
        yield session
        session.publish_experts()
    finally:
        session.detach()


def edge_emitter() -> Emitter:
    """Return the emitter for a process in which CUPTI records the calls of CUDA's runtime.

    Where no NVTX tool listens, a range makes such a call at both ends, of the kind that only asks: between them CUPTI
    need not see the driver's calls to know in which range an operation was launched.
    """
    found = nvtx_emitter()
    return found if found.active else Edges(stream_is_capturing)


def _event_maker(model: nn.Module) -> Callable[[], Any] | None:
    """Return what records a timing event, where the model lies on a GPU."""
    parameter = next(model.parameters(), None)
    if parameter is None or parameter.device.type != "cuda":
        return None
    return EventRecorder(parameter.device)
