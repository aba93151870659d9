"""Which stage of inference the current context is in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.schema.records import Stage

_STAGE: ContextVar[Stage] = ContextVar("dsocr_analytic_stage", default=Stage.UNKNOWN)


@contextmanager
def analytic_stage(name: str) -> Iterator[None]:
    """Say that what runs inside the block belongs to stage ``vision``, ``prefill`` or ``decode``.

    What is said here wins over what the hooks would infer. Blocks nest; the outer stage returns at the end, also after
    an exception. Any other name is a `UsageError`.
    """
    token = begin_stage(stage_called(name))
    try:
        yield
    finally:
        end_stage(token)


def stage_called(name: str) -> Stage:
    """Return the stage of a name; any other name is a `UsageError`."""
    try:
        return Stage(name)
    except ValueError as cause:
        raise UsageError(f"no stage is called {name!r}; say one of {', '.join(Stage)}") from cause


begin_stage: Callable[[Stage], Token[Stage]] = _STAGE.set
"""Put the current context into a stage; `end_stage` takes what is returned."""
end_stage: Callable[[Token[Stage]], None] = _STAGE.reset
"""Put the current context back into the stage that it was in."""
stage_now: Callable[[], Stage] = _STAGE.get
"""What `current_stage` returns."""


def current_stage() -> Stage:
    """Return the stage that the current context was put in; ``unknown`` where nobody said."""
    return _STAGE.get()
