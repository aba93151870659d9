"""Small engines with their hooks attached, and what was heard of their steps."""

from typing import Any

from dsocr_nvtx.schema.payload import FIELD_INDEX
from dsocr_nvtx.schema.records import Level
from dsocr_nvtx.serving.runner import attach_runner
from dsocr_nvtx.serving.session import ServedSession
from tests.builders.emitters import Listener, Pushed
from tests.builders.vllm_engine import GPUModelRunner, GPUModelRunner2, Scheduler, one_page

RUNNERS: dict[str, Any] = {
    "first": GPUModelRunner,
    "second": GPUModelRunner2,
    "second, graphs": lambda **options: GPUModelRunner2(graphs=True, **options),
}


def hooked(runner: Any, level: Level = Level.OP) -> tuple[ServedSession, Listener]:
    """Load a runner's model and attach; return the session and what listens."""
    runner.load_model()
    listener = Listener()
    return attach_runner(runner, "vLLM 0 Runner", listener, level), listener


def value(pushed: Pushed, name: str) -> int:
    """Return a field of a range's payload."""
    return pushed.values[FIELD_INDEX[name]]


def total(ranges: list[Pushed], name: str) -> int:
    """Return the sum of a field."""
    return sum(value(pushed, name) for pushed in ranges)


def serve(runner: Any, output: Any) -> Any:
    """Run one step as an engine does."""
    made = runner.execute_model(output)
    return runner.sample_tokens(None) if made is None else made


def two_requests(runner: Any) -> list[Any]:
    """Serve two requests: prefill with a page, decode, a step that is mixed in two chunks, decode of both."""
    scheduler, made = Scheduler(), []
    runner.images = one_page()
    made.append(serve(runner, scheduler.step(("a", 30), a=30)))
    made.append(serve(runner, scheduler.step(("a", 1))))
    made.append(serve(runner, scheduler.step(("a", 1), ("b", 10), b=16)))
    made.append(serve(runner, scheduler.step(("a", 1), ("b", 6))))
    made.append(serve(runner, scheduler.step(("a", 1), ("b", 1))))
    scheduler.finish("a")
    made.append(serve(runner, scheduler.step(("b", 1))))
    return made
