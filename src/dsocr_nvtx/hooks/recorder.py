"""The recorder in Python: what stands in for a hooked method, at every call, so as little as can be.

Contract of a recorder: a call of a site whose record the thread's frame has ready pushes it, is timed, is popped and is
logged, with no look at its arguments; any other call goes to the session, which reads it. What goes wrong in here goes
to the session's ``fail``, never to the model.
"""

import os
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from time import perf_counter_ns
from types import ModuleType
from typing import Any, Protocol

from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.payloads import WIDTH
from dsocr_nvtx.hooks.sites import Site
from dsocr_nvtx.hooks.threads import Threads
from dsocr_nvtx.hooks.tracing import hidden

Method = Callable[..., Any]
Fail = Callable[[str, Exception], None]
Unready = Callable[[Method, tuple[Any, ...], dict[str, Any]], Any]
"""Takes a call without a record: the stand-in, and the call's arguments."""


class Recorder(Protocol):
    """What makes the stand-in of a hooked method."""

    def site(self, inner: Method, site: Site, unready: Unready) -> Method:
        """Return what stands in for ``inner``; ``unready(stand_in, args, kwargs)`` takes calls without a record."""
        ...


class PythonRecorder:
    """Records with nothing but Python."""

    def __init__(self, threads: Threads, emitter: Emitter, fail: Fail) -> None:
        self._threads, self._emitter, self._fail = threads, emitter, fail

    def site(self, inner: Method, site: Site, unready: Unready) -> Method:
        """Return what stands in for ``inner``: in a range where there is a tool, else timed."""
        return (self._ranged if self._emitter.active else self._timed)(inner, site, unready)

    def _timed(self, inner: Method, site: Site, unready: Unready) -> Method:
        threads, number = self._threads, site.number

        @wraps(inner)  # generate() asks for the signature of forward
        def hooked(*args: Any, **kwargs: Any) -> Any:
            state = threads.state
            if state.attributes[number] is None:
                return unready(hooked, args, kwargs)
            log, event_id = state.log, state.next_id
            state.next_id = event_id + 1
            start_ns = perf_counter_ns()
            try:
                return inner(*args, **kwargs)
            finally:
                log += (number, event_id, start_ns, perf_counter_ns())

        return hooked

    def _ranged(self, inner: Method, site: Site, unready: Unready) -> Method:
        threads, number, fail, path = self._threads, site.number, self._fail, site.path
        push, pop, at = hidden(self._emitter.push), hidden(self._emitter.pop), number * WIDTH

        @wraps(inner)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            state = threads.state
            attributes = state.attributes[number]
            if attributes is None:
                return unready(hooked, args, kwargs)
            log, event_id = state.log, state.next_id
            state.next_id = event_id + 1
            state.words[at - state.base] = event_id
            try:
                push(attributes)
            except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                fail(path, error)
                return inner(*args, **kwargs)
            except BaseException:  # an interrupt, which is only looked at when the push is done
                pop()
                raise
            try:
                start_ns = perf_counter_ns()
                try:
                    return inner(*args, **kwargs)
                finally:
                    log += (number, event_id, start_ns, perf_counter_ns())
            finally:
                try:
                    pop()
                except Exception as error:  # noqa: BLE001 - as above
                    fail(path, error)

        return hooked


class NativeRecorder:
    """Records without entering Python between the model's calls: `dsocr_nvtx.hooks.native`."""

    def __init__(self, native: ModuleType, threads: Threads, emitter: Emitter, fail: Fail) -> None:
        self._native, self._threads, self._emitter, self._fail = native, threads, emitter, fail

    def site(self, inner: Method, site: Site, unready: Unready) -> Method:
        """Return what stands in for ``inner``: a function, since torch.compile traces nothing else in its place.

        Its calls go to the native site at once; where the interpreter runs its body all the same, that calls the site.
        """
        active = self._emitter.active
        push, pop = (hidden(self._emitter.push), hidden(self._emitter.pop)) if active else (None, None)
        call = self._native.Site(inner, self._threads, site.number, WIDTH, unready, push, pop, self._fail, site.path)

        @wraps(inner)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            return call(*args, **kwargs)

        call.shortens(hooked)
        return hooked


PYTHON, NATIVE = "python", "native"
CHOICE = "DSOCR_NVTX_RECORDER"
"""The environment's variable that chooses the recorder; without it the native one records where it was built."""


def native_recorder(chosen: str | None = None) -> ModuleType | None:
    """Return the compiled module that records; None where ``chosen``, or else the environment, says python.

    Where neither says anything it is also None where the module was not built. Raises `UsageError` where one asks for
    what is not there.
    """
    chosen = os.environ.get(CHOICE, "") if chosen is None else chosen
    if chosen not in ("", PYTHON, NATIVE):
        raise UsageError(f"{chosen!r} is no recorder ({CHOICE}); say {PYTHON} or {NATIVE}")
    if chosen == PYTHON:
        return None
    try:
        return import_module("dsocr_nvtx.hooks.native._recorder")
    except ImportError as error:
        if chosen == NATIVE:
            how = "pip install again where there is a C compiler, or take python"
            raise UsageError(f"the native recorder ({CHOICE}) was not built: {how}") from error
        return None
