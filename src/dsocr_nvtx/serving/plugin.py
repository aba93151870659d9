"""Hooking a process of vLLM, before it has loaded anything: its runner's model, host work, and requests."""

import logging
import os
from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from time import time_ns
from typing import Any

from attrs import define, field

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.hooks.emit import Emitter, nvtx_emitter
from dsocr_nvtx.hooks.recorder import native_recorder
from dsocr_nvtx.schema.records import Level
from dsocr_nvtx.schema.served import RequestEvent, request_mark
from dsocr_nvtx.serving.idle import IdleRanges, around, bare_forwards
from dsocr_nvtx.serving.runner import attach_runner
from dsocr_nvtx.serving.session import ServedSession

_log = logging.getLogger(__name__)

_WORKER = ("vllm.v1.worker.worker_base", "WorkerWrapperBase", "init_device")
"""What makes a process's runner, of whatever generation and for whatever device."""

HOST_WORK = (
    ("vllm.renderers.base", "BaseRenderer", "_tokenize_prompt", "tokenizing"),
    ("vllm.renderers.base", "BaseRenderer", "_process_multimodal", "preprocessing"),
    ("vllm.v1.engine.input_processor", "InputProcessor", "process_inputs", "preprocessing"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "schedule", "scheduling"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "update_from_output", "output"),
    ("vllm.v1.engine.output_processor", "OutputProcessor", "process_outputs", "detokenizing"),
    ("vllm.v1.engine.core", "EngineCore", "step", "engine"),
    ("vllm.v1.engine.core", "EngineCore", "step_with_batch_queue", "engine"),
    ("vllm.v1.engine.llm_engine", "LLMEngine", "step", "engine"),
)
"""Methods of the engine's classes that are host work, in whichever process they run."""

LEVEL = "DSOCR_NVTX_LEVEL"
"""The environment's variable that says how fine ranges are: stage, layer or op, which is taken if it is not set."""


@define(eq=False)
class Serving:
    """What is hooked in this process: at most one served model, host work, and requests."""

    emitter: Emitter
    level: Level = Level.OP
    idle: IdleRanges = field(init=False)
    session: ServedSession | None = None
    errors: list[str] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.idle = IdleRanges.on(*bare_forwards(self.emitter), self.fail)

    def fail(self, where: str, error: Exception) -> None:
        """Note what went wrong, once per place."""
        if not any(known.startswith(f"{where}: ") for known in self.errors):
            self.errors.append(f"{where}: {type(error).__name__}: {error}")
            _log.warning("dsocr-nvtx: %s", self.errors[-1])

    def loaded(self, runner: Any) -> None:
        """Attach to a runner that has loaded its model. One that is refused serves on without hooks; it is said why."""
        name = f"vLLM {_version()}, {type(runner).__name__}"
        try:
            self.session = attach_runner(runner, name, self.emitter, self.level)
            self.idle = self.session.idle
        except Exception as error:  # noqa: BLE001 - whatever it is, the engine must go on
            self.fail("nothing is hooked" if isinstance(error, Refused) else name, error)

    def told(self, name: str, what: RequestEvent, number: int | None = None) -> None:
        """Say what happened to a request."""
        if self.emitter.announces:
            self.emitter.mark(request_mark(name, what, number))


_SERVING: Serving | None = None


def register() -> None:
    """Patch this process, unless no NVTX tool listens; calling it again changes nothing."""
    emitter = nvtx_emitter(native_recorder())
    if not emitter.active:
        _log.warning("dsocr-nvtx: no NVTX tool listens in process %d: put `nsys profile` in front", os.getpid())
        return
    install(emitter, Level(os.environ.get(LEVEL, Level.OP)))


def install(emitter: Emitter, level: Level = Level.OP) -> Serving:
    """Patch the engine's classes in this process, once; return what is hooked."""
    global _SERVING  # noqa: PLW0603 - classes are hooked once in a process
    if _SERVING is not None:
        return _SERVING
    serving = _SERVING = Serving(emitter, level)
    _replace(serving, *_WORKER, lambda inner: _making_runners(inner, serving))
    for module, owner, method, what in HOST_WORK:
        _replace(serving, module, owner, method, partial(around, what=what, ranges=lambda: serving.idle))
    for module, owner, method, hear in _REQUESTS:
        _replace(serving, module, owner, method, partial(_hearing, hear=hear, serving=serving))
    return serving


def _replace(serving: Serving, module: str, owner: str, method: str, make: Callable[[Any], Any]) -> None:
    """Replace a method of a class; what a release does not have is said, and is not seen."""
    try:
        found = getattr(import_module(module), owner)
        setattr(found, method, make(getattr(found, method)))
    except (ImportError, AttributeError) as error:
        serving.fail(f"vLLM {_version()} has no {module}.{owner}.{method}", error)


def _making_runners(inner: Callable[..., Any], serving: Serving) -> Callable[..., Any]:
    """Return what makes a worker's runner, whose model is hooked once it is loaded."""

    @wraps(inner)
    def init_device(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = inner(self, *args, **kwargs)
        runner: Any = getattr(self.worker, "model_runner", None)
        load = getattr(runner, "load_model", None)
        if load is None:
            serving.fail("nothing is hooked", Refused(f"vLLM {_version()}", "no model_runner.load_model", "see README"))
            return result

        @wraps(load)
        def load_model(*load_args: Any, **load_kwargs: Any) -> Any:
            done = load(*load_args, **load_kwargs)
            serving.loaded(runner)
            return done

        runner.load_model = load_model
        return result

    return init_device


def _hearing(inner: Callable[..., Any], hear: Callable[..., None], serving: Serving) -> Callable[..., Any]:
    """Return a method after whose calls it is said what happened to a request."""

    @wraps(inner)
    def heard(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        result = inner(self, request, *args, **kwargs)
        try:
            hear(serving, request)
        except Exception as error:  # noqa: BLE001 - as above
            serving.fail("requests", error)
        return result

    return heard


def _taken_in(serving: Serving, request: Any) -> None:
    """Say when a request arrived, which was before it was preprocessed and had its name, and that it now is."""
    arrived = getattr(request, "arrival_time", None)
    serving.told(request.request_id, RequestEvent.ARRIVED, None if arrived is None else _since(arrived))
    serving.told(request.request_id, RequestEvent.PREPROCESSED)


def _since(time_s: float) -> int:
    """Return the nanoseconds since a time of the wall's clock."""
    return max(time_ns() - int(time_s * 1e9), 0)


def _queued(serving: Serving, request: Any) -> None:
    serving.told(request.request_id, RequestEvent.QUEUED)


def _finished(serving: Serving, request: Any) -> None:
    serving.told(request.request_id, RequestEvent.FINISHED, request.num_output_tokens)


_REQUESTS: tuple[tuple[str, str, str, Callable[..., None]], ...] = (
    ("vllm.v1.engine.output_processor", "OutputProcessor", "add_request", _taken_in),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "add_request", _queued),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "_free_request", _finished),
)
"""Methods whose first argument is a request to which something happens."""


def _version() -> str:
    return str(getattr(import_module("vllm"), "__version__", "of unknown version"))
