"""Which stage of inference the current context is in, and what stage a call has that nobody told the stage of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.hooks.readers import ForwardSignature
from dsocr_nvtx.hooks.sites import Site
from dsocr_nvtx.hooks.threads import ThreadState
from dsocr_nvtx.schema.records import Stage

_STAGES = {str(stage): stage for stage in Stage}
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
        return _STAGES[name]
    except (KeyError, TypeError) as cause:
        raise UsageError(f"no stage is called {name!r}; say one of {', '.join(Stage)}") from cause


begin_stage: Callable[[Stage], Token[Stage]] = _STAGE.set
"""Put the current context into a stage; `end_stage` takes what is returned."""
end_stage: Callable[[Token[Stage]], None] = _STAGE.reset
"""Put the current context back into the stage that it was in."""


def current_stage() -> Stage:
    """Return the stage that the current context was put in; ``unknown`` where nobody said."""
    return _STAGE.get()


def stage_of(site: Site, signature: ForwardSignature | None, state: ThreadState) -> tuple[Stage, bool]:
    """Return the stage of a call that begins a forward, and whether it was said: by the user or by what is around."""
    around = state.frame
    if around is not None and not site.is_stage and (around.said or not site.is_vision):
        return around.stage, around.said
    said = _STAGE.get()
    if said is not Stage.UNKNOWN:
        return said, True
    if site.is_vision:
        return Stage.VISION, False
    return (_stage_of_forward(signature, state), False) if site.is_stage else (Stage.UNKNOWN, False)


def _stage_of_forward(signature: ForwardSignature | None, state: ThreadState) -> Stage:
    """Infer the stage of a forward over tokens.

    `generate` says by its own methods what is prefill: all chunks of a prompt, the last of which may be one token.
    What continues a sequence after that is decode, also several tokens at a time, as when a draft is verified. Outside
    of `generate` a single token that continues is decode, and several are one more piece of the prompt.
    """
    if state.prefilling:
        return Stage.PREFILL
    if signature is None:
        return Stage.DECODE if state.generating and state.prefilled else Stage.UNKNOWN
    if not signature.continues:
        return Stage.PREFILL
    return Stage.DECODE if state.generating or signature.shape.tokens == 1 else Stage.PREFILL
