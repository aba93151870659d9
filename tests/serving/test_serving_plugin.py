"""vLLM's way in: its classes, as far as they are there, are hooked in a process that asks for it, and only there."""

import os
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dsocr_nvtx.schema.payload import FIELD_INDEX
from dsocr_nvtx.schema.served import RequestEvent, parse_request_mark
from dsocr_nvtx.serving import plugin
from tests.builders.emitters import Listener
from tests.builders.vllm_engine import GPUModelRunner
from tests.serving.engines import two_requests, value


class Worker:
    """What vLLM wraps its workers in: makes the runner when it makes the device ready."""

    def __init__(self, runner: Any) -> None:
        self.made, self.worker = runner, SimpleNamespace(model_runner=None)

    def init_device(self) -> None:
        """Make the runner."""
        self.worker.model_runner = self.made


class Scheduler:
    """Takes requests and lets them go."""

    def schedule(self) -> str:
        """Return what is scheduled."""
        return "scheduled"

    def update_from_output(self, output: str) -> str:
        """Take a step's tokens."""
        return output

    def add_request(self, request: Any) -> None:
        """Queue a request."""

    def _free_request(self, request: Any) -> str:
        return f"freed {request.request_id}"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a stand-in of vLLM's modules that has workers and a scheduler, and nothing else."""
    names = ["vllm", "vllm.v1", "vllm.v1.worker", "vllm.v1.core", "vllm.v1.core.sched"]
    for name in [*names, "vllm.v1.worker.worker_base", "vllm.v1.core.sched.scheduler"]:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vllm"].__version__ = "7.0"  # type: ignore[attr-defined]
    sys.modules["vllm.v1.worker.worker_base"].WorkerWrapperBase = type("Worker", (Worker,), dict(vars(Worker)))  # type: ignore[attr-defined]
    sys.modules["vllm.v1.core.sched.scheduler"].Scheduler = type("Scheduler", (Scheduler,), dict(vars(Scheduler)))  # type: ignore[attr-defined]
    monkeypatch.setattr(plugin, "_SERVING", None)
    return SimpleNamespace(
        worker=sys.modules["vllm.v1.worker.worker_base"].WorkerWrapperBase,
        scheduler=sys.modules["vllm.v1.core.sched.scheduler"].Scheduler,
    )


def loaded(engine: Any, runner: Any) -> None:
    """Let a worker make its runner and load the model."""
    worker = engine.worker(runner)
    worker.init_device()
    worker.worker.model_runner.load_model()


def test_a_runner_is_hooked_once_its_model_is_loaded(engine: Any) -> None:
    """Steps are told from the first on, and ranges of host work share their event ids with them."""
    listener = Listener()
    serving = plugin.install(listener)
    runner = GPUModelRunner()
    loaded(engine, runner)
    assert engine.scheduler().schedule() == "scheduled"
    two_requests(runner)
    assert serving.session is not None
    assert serving.session.errors == []
    paths = [one.path for one in listener.ranges]
    assert paths[0] == "host.scheduling"
    assert paths.count("step.decode") == 3
    ids = [value(one, "event_id") for one in listener.ranges]
    assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_host_work_outside_of_steps_has_the_stage_of_the_host(engine: Any) -> None:
    """No model is needed: the engine's front has none."""
    listener = Listener()
    plugin.install(listener)
    assert engine.scheduler().update_from_output("tokens") == "tokens"
    assert [(one.path, one.stage) for one in listener.ranges] == [("host.output", "host")]
    assert listener.ranges[0].values[FIELD_INDEX["tensor_flops"]] == 0
    assert listener.stack == []


def test_requests_are_told(engine: Any) -> None:
    """When it is queued, and when it is over, with its tokens."""
    listener = Listener()
    plugin.install(listener)
    request = SimpleNamespace(request_id="page 1:x", num_output_tokens=17)
    engine.scheduler().add_request(request)
    assert engine.scheduler()._free_request(request) == "freed page 1:x"
    marks = [parse_request_mark(text) for _, text in listener.marks]
    assert [(mark.name, mark.what, mark.number) for mark in marks if mark] == [
        ("page_1_x", RequestEvent.QUEUED, None),
        ("page_1_x", RequestEvent.FINISHED, 17),
    ]


def test_a_request_arrived_before_it_was_named(engine: Any) -> None:
    """The mark says how long before, by the engine's own arrival time."""
    listener = Listener()
    serving = plugin.install(listener)
    plugin._taken_in(serving, SimpleNamespace(request_id="a", arrival_time=time.time() - 2))
    marks = [parse_request_mark(text) for _, text in listener.marks]
    assert [mark.what for mark in marks if mark] == [RequestEvent.ARRIVED, RequestEvent.PREPROCESSED]
    assert marks[0] is not None
    assert 2e9 <= (marks[0].number or 0) < 60e9


def test_paused_hooks_tell_nothing(engine: Any) -> None:
    """So that the same engine's steps can be timed with hooks and without."""
    listener = Listener()
    serving = plugin.install(listener)
    runner = GPUModelRunner()
    loaded(engine, runner)
    serving.idle.paused = True
    two_requests(runner)
    assert listener.ranges == []
    serving.idle.paused = False
    assert engine.scheduler().schedule() == "scheduled"
    assert len(listener.ranges) == 1


def test_what_a_release_lacks_is_named_and_the_rest_is_hooked(engine: Any) -> None:
    """The stand-in has no renderer: that is said, with the release."""
    serving = plugin.install(Listener())
    said = [line for line in serving.errors if "BaseRenderer._tokenize_prompt" in line]
    assert len(said) == 1
    assert "vLLM 7.0" in said[0]
    assert not any("Scheduler.schedule" in line for line in serving.errors)


def test_a_model_that_is_refused_is_served_without_hooks(engine: Any) -> None:
    """The line says which release and runner, and what was found."""
    serving = plugin.install(Listener())
    runner = GPUModelRunner()
    runner.vllm_config.parallel_config.pipeline_parallel_size = 2
    loaded(engine, runner)
    assert serving.session is None
    refused = [line for line in serving.errors if line.startswith("nothing is hooked")]
    assert len(refused) == 1
    assert "vLLM 7.0, GPUModelRunner: pipeline_parallel_size is 2" in refused[0]
    assert "execute_model" not in vars(runner)


def test_an_engine_is_hooked_once(engine: Any) -> None:
    """A process may be told several times."""
    listener = Listener()
    assert plugin.install(listener) is plugin.install(Listener())
    engine.scheduler().schedule()
    assert [one.path for one in listener.ranges] == ["host.scheduling"]


@pytest.mark.parametrize("said", [None, "0"])
def test_nothing_happens_unless_it_is_asked_for(said: str | None) -> None:
    """The entry point imports neither torch nor the hooks, in every process of every user of vLLM."""
    environment = {name: text for name, text in os.environ.items() if name != "DSOCR_NVTX"}
    environment |= {} if said is None else {"DSOCR_NVTX": said}
    code = "import sys, dsocr_nvtx.serving as s; s.register(); assert not {'torch', 'nvtx', 'vllm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
