"""`with hook(model):` puts ranges around the parts of a model; leaving the block takes every one of them away."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from dsocr_nvtx.errors import Refused, UsageError
from dsocr_nvtx.hooks.bindings import hooked_network
from dsocr_nvtx.hooks.emit import Emitter, Silent, nvtx_emitter
from dsocr_nvtx.hooks.events import EventRecorder, Events
from dsocr_nvtx.hooks.recorder import native_recorder
from dsocr_nvtx.hooks.session import HookSession
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
    recorder: str | None = None,
) -> Iterator[HookSession]:
    """Emit a range around every call of the model's stages, layers or operations, down to ``level``.

    Each range carries its analytic cost to the NVTX tool that is attached, if one is; with ``record`` the calls are
    also kept in the session's ``stats``. With ``events``, and the model on a GPU, CUDA events are recorded around each
    stage's ``steps``, or around all ``ranges``; by default around none, since two of them cost as much as several
    ranges. With no tool and no ``record``, and with ``DSOCR_NVTX=0`` in the environment, nothing is attached at all.
    ``emitter`` replaces NVTX, as in tests. ``recorder``, ``python`` or ``native``, is by default what the environment's
    DSOCR_NVTX_RECORDER says, else native where that was built.

    With ``observe_experts`` every call of routed experts keeps the router's indices, on the model's device.
    They are counted when the block ends (or earlier, by the session's ``publish_experts``): they are in ``stats``
    and, for a tool that listens, in marks. Calls in a CUDA graph are counted launch by launch where the session hears
    of them (`HookSession.captured`).

    Outputs are those of the model without hooks, bit for bit: only shapes are read. Where a call's arguments are not
    understood its cost is unknown, and the session's ``errors`` say so; its ``checks`` say what was held against the
    tensors. Before anything is attached, raises `UsageError` for an unknown level or kind of ``events``, and `Refused`
    for a model that is not DeepSeek-OCR's.

    Code that torch.compile makes of the model, or of parts of it, inside the block or before, has its ranges as well.
    It is compiled anew at its first calls in the block, so call it once or twice before what you measure.
    """
    if level not in set(Level):
        raise UsageError(f"no level is called {level!r}; say one of {', '.join(Level)}")
    if events not in set(Events):
        raise UsageError(f"events are recorded around {', '.join(Events)}, not {events!r}")
    if not isinstance(model, nn.Module):
        raise Refused(type(model).__name__, "no torch module", "hook DeepSeek-OCR's whole model")
    model = getattr(model, "_orig_mod", model)  # what torch.compile returned stands for it
    off = os.environ.get("DSOCR_NVTX") == "0"
    native = None if off else native_recorder(recorder)
    emitter = Silent() if off else (emitter or nvtx_emitter(native))
    record = record and not off
    if not (record or emitter.active):
        yield HookSession(emitter, record=False, sites=[], make_event=None, events=Events.NONE)
        return
    found = hooked_network(model, Level(level))
    session = HookSession(
        emitter, record=record, sites=found.sites, make_event=_event_maker(model), events=Events(events), native=native
    )
    use_analytic_run_stats(session.stats)
    try:
        session.attach(model, found, observe_experts=observe_experts)
        yield session
        session.publish_experts()
    finally:
        session.detach()


def _event_maker(model: nn.Module) -> Callable[[], Any] | None:
    """Return what records a timing event, where the model lies on a GPU."""
    parameter = next(model.parameters(), None)
    if parameter is None or parameter.device.type != "cuda":
        return None
    return EventRecorder(parameter.device)
