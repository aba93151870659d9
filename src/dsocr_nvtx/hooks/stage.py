"""Which stage of inference the current context is in."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.schema.records import Stage

_STAGE: ContextVar[Stage] = ContextVar("dsocr_analytic_stage", default=Stage.UNKNOWN)


@contextmanager
def analytic_stage(name: str) -> Iterator[None]:
    """Say that what runs inside the block belongs to stage ``vision``, ``prefill`` or ``decode``.

    What is said here wins over what the hooks would infer. Blocks nest; the outer stage returns at the end, also after
    an exception. Any other name is a `UsageError`.
    """
    try:
        stage = Stage(name)
    except ValueError as cause:
        raise UsageError(f"no stage is called {name!r}; say one of {', '.join(Stage)}") from cause
    token = _STAGE.set(stage)
    try:
        yield
    finally:
        _STAGE.reset(token)


def current_stage() -> Stage:
    """Return the stage that the current context was put in; ``unknown`` where nobody said."""
    return _STAGE.get()
