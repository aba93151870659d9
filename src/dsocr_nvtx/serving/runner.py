"""Attaching to a vLLM model runner: both generations of it, told apart by what they have, not by their version."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from attrs import define

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.hooks.bindings import served_network
from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.recorder import native_recorder
from dsocr_nvtx.schema.records import HOST_PREFIX, Level
from dsocr_nvtx.serving.graphs import hear_captures
from dsocr_nvtx.serving.idle import around
from dsocr_nvtx.serving.network import network_of
from dsocr_nvtx.serving.scheduled import ScheduleReader
from dsocr_nvtx.serving.session import ServedSession

Method = Callable[..., Any]

REMEDY = "serve without DSOCR_NVTX, or with a release of the engine that README names as tried"
_PREPARING = f"{HOST_PREFIX}preparing"
_HOST_WORK = (
    ("_execute_mm_encoder", "encoding"),
    ("model_state.get_mm_embeddings", "encoding"),
    ("sampler.apply_logits_processors", "logits_processors"),
)
"""Methods of a runner's, where it has them, that are host work inside of a step."""


def attach_runner(runner: Any, name: str, emitter: Emitter, level: Level = Level.OP) -> ServedSession:
    """Attach to a runner that has loaded its model, before it compiles and captures; return the session.

    ``name`` is what the runner is called in messages. Raises `Refused` where its model is not DeepSeek-OCR's, or where
    it lacks what hooks need: then it says what was missing.
    """
    missing = [needed for needed in ("execute_model", "get_model", "vllm_config") if not hasattr(runner, needed)]
    if not any(hasattr(runner, either) for either in ("_model_forward", "cudagraph_manager")):
        missing.append("_model_forward or cudagraph_manager")
    if missing:
        raise Refused(name, f"no {', no '.join(missing)}", REMEDY)
    model = runner.get_model()
    found = served_network(model, network_of(runner.vllm_config, name), level)
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    session = ServedSession(emitter, found, on_gpu=on_gpu, native=native_recorder())
    steps = Steps(session, ScheduleReader(), runner)
    if hasattr(runner, "_model_forward"):
        session.replace(runner, "_model_forward", steps.forwarding(session.attach(model, runner._model_forward)))
    else:
        session.replace(model, "forward", steps.forwarding(session.attach(model, model.forward)))
    session.replace(runner, "execute_model", steps.executing(runner.execute_model))
    if hasattr(runner, "sample_tokens"):
        session.replace(runner, "sample_tokens", steps.sampling(runner.sample_tokens))
    for path, what in _HOST_WORK:
        _hear_host_work(session, runner, path, what)
    if on_gpu:
        hear_captures(session)
    return session


def _hear_host_work(session: ServedSession, runner: Any, path: str, what: str) -> None:
    *where, method = path.split(".")
    owner = runner
    for step in where:
        owner = getattr(owner, step, None)
    if callable(getattr(owner, method, None)):
        session.replace(owner, method, around(getattr(owner, method), what, lambda: session.idle))


@define(eq=False)
class Steps:
    """The steps of one runner: each from `execute_model`'s call to the end of sampling."""

    session: ServedSession
    read: ScheduleReader
    runner: Any
    _preparing: int | None = None
    _graphs: Any = None

    def executing(self, inner: Method) -> Method:
        """Return ``execute_model`` as what begins a step; it ends it as well where it does not leave sampling over."""

        @wraps(inner)
        def execute_model(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("dummy_run"):
                return inner(*args, **kwargs)
            self._hear_launches()
            output = args[0] if args else kwargs.get("scheduler_output")
            self.session.begin(lambda: self.read(output))
            self._prepare()
            result: Any = output
            try:
                result = inner(*args, **kwargs)
            finally:
                self._prepared()
                if result is not None:
                    self.session.end()
            return result

        return execute_model

    def forwarding(self, inner: Method) -> Method:
        """Return a whole forward as the part of a step in which nothing is prepared any more."""

        @wraps(inner)
        def forward(*args: Any, **kwargs: Any) -> Any:
            self._launches(_rows(args, kwargs))
            return inner(*args, **kwargs)

        return forward

    def sampling(self, inner: Method) -> Method:
        """Return ``sample_tokens`` as what ends a step."""
        hosted = around(inner, "sampling", lambda: self.session.idle if self.session.stepping else None)

        @wraps(inner)
        def sample_tokens(*args: Any, **kwargs: Any) -> Any:
            try:
                return hosted(*args, **kwargs)
            finally:
                self.session.end()

        return sample_tokens

    def _hear_launches(self) -> None:
        """Hear of whole graphs that are launched, where the runner launches them past the model's own method."""
        manager = getattr(self.runner, "cudagraph_manager", None)
        if manager is None or manager is self._graphs or not hasattr(manager, "run_fullgraph"):
            return
        self._graphs = manager
        launch = self.session.whole(manager.run_fullgraph)

        def run_fullgraph(graph: Any, *args: Any, **kwargs: Any) -> Any:
            self._launches(getattr(graph, "num_tokens", 0))
            return launch(graph, *args, **kwargs)

        self.session.replace(manager, "run_fullgraph", run_fullgraph)

    def _prepare(self) -> None:
        if self.session.stepping:
            self._preparing = self.session.idle.push(_PREPARING)

    def _prepared(self) -> None:
        self.session.idle.pop(_PREPARING, self._preparing)
        self._preparing = None

    def _launches(self, padded_rows: int) -> None:
        self._prepared()
        self.session.tell(padded_rows)


def _rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the rows of a forward: of its positions [T] or [axes, T]; 0 where it has none."""
    positions = kwargs.get("positions", args[1] if len(args) > 1 else None)
    shape = getattr(positions, "shape", None)
    return int(shape[-1]) if shape else 0
