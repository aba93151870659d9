"""What is put into the place of a hooked method: a recorder's stand-in, and around an entry's what begins a forward."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from typing import Any

from attrs import frozen
from torch import compiler

from dsocr_nvtx.hooks.caches import Caches, Unreadable
from dsocr_nvtx.hooks.checks import cache_fault, first_call_fault, logits_fault, lone_signature, rows_fault
from dsocr_nvtx.hooks.forwards import Forwards
from dsocr_nvtx.hooks.prices import Priced
from dsocr_nvtx.hooks.readers import Args, ForwardSignature, Kwargs, Reader, experts_of
from dsocr_nvtx.hooks.recorder import Recorder
from dsocr_nvtx.hooks.sites import Site
from dsocr_nvtx.hooks.stage import stage_of
from dsocr_nvtx.hooks.threads import Frame, ThreadState
from dsocr_nvtx.hooks.tracing import shielded, skipped
from dsocr_nvtx.schema.records import CallShape

Method = Callable[..., Any]


_RAISED = object()
"""In place of a model's result, where it raised."""


@frozen(eq=False)
class StandIns:
    """Makes the stand-ins of one session. What goes wrong in them goes to ``fail``, never to the model."""

    forwards: Forwards
    recorder: Recorder
    caches: Caches
    config: Any
    lists_experts: bool
    fail: Callable[[str, Exception], None]

    def of_site(self, inner: Method, site: Site) -> Method:
        """Return what stands in for a method inside of a forward."""
        return self.recorder.site(inner, site, partial(self._unready, inner, site))

    def of_entry(self, inner: Method, site: Site, reader: Reader) -> Method:
        """Return what stands in for a method that a forward begins with."""
        recorded = self.recorder.site(inner, site, lambda _stand_in, args, kwargs: inner(*args, **kwargs))
        forwards, threads, close = self.forwards, self.forwards.threads, self._close
        begin, end = self.begin, self._end

        @wraps(inner)
        def entered(*args: Any, **kwargs: Any) -> Any:
            if forwards.closed or compiler._is_compiling_flag:  # is_compiling() is two calls more
                return inner(*args, **kwargs)
            state = threads.state
            outer, signature, result = state.frame, None, _RAISED
            try:
                try:
                    signature = begin(state, site, reader, args, kwargs)
                except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                    self.fail(site.path, error)
                    close(state, outer)
                result = recorded(*args, **kwargs)
                return result
            finally:
                end(state, outer, site, signature, result)

        return entered

    def within(self, inner: Method, counter: str) -> Method:
        """Return one of the model's own methods that tell the stage: it counts in the thread's state while it runs."""
        threads = self.forwards.threads

        @wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> Any:
            state = threads.state
            state.prefilled = False
            setattr(state, counter, getattr(state, counter) + 1)
            try:
                return inner(*args, **kwargs)
            finally:
                setattr(state, counter, getattr(state, counter) - 1)
                state.prefilled = counter == "prefilling"

        return counted

    @shielded
    def _close(self, state: ThreadState, outer: Frame | None) -> None:
        self.forwards.close(state, outer)

    @shielded
    def _end(
        self, state: ThreadState, outer: Frame | None, site: Site, signature: ForwardSignature | None, result: Any
    ) -> None:
        """End the forward that an entry has begun, if it has, and check its cache unless the model raised."""
        try:
            if signature is not None and result is not _RAISED:
                self._check_cache(state.frame if state.frame is not outer else None, site, signature, result)
        finally:
            self.forwards.close(state, outer)

    @shielded
    def begin(
        self, state: ThreadState, site: Site, reader: Reader, args: Args, kwargs: Kwargs
    ) -> ForwardSignature | None:
        """Read an entry's call and begin its forward; return what was read, or None where it could not be."""
        signature = None
        try:
            if self.forwards.stale:
                raise Unreadable(self.forwards.stale)
            signature = reader(args, kwargs)
        except Exception as error:  # noqa: BLE001 - an argument that is not understood makes the cost unknown
            self.fail(f"{site.path}: its cost is unknown", error)
        stage, said = stage_of(site, signature, state)
        if signature is None:
            costs, kv_len = self.forwards.prices.of(site, None, CallShape()), 0
        else:
            kv_len = signature.kv_len
            costs = self.forwards.prices.of(site, signature.description, signature.shape)
        if self.forwards.muted:
            costs.at(kv_len)  # a warm-up warms the prices up as well
        else:
            self.forwards.open(state, costs, stage, kv_len, said=said)
        return signature

    def _check_cache(self, frame: Frame | None, site: Site, signature: ForwardSignature, result: Any) -> None:
        """Compare the cache after a forward with what was recorded, and count what a static cache was given."""
        try:
            if signature.held.slots:
                self.caches.added(signature.cache, signature.shape.tokens)
            if frame is None or not site.is_stage or site.is_vision or frame.captured or frame.has_inner:
                return
            fault = logits_fault(signature, result)
            if fault is None:
                fault = cache_fault(signature, self.caches, result)
                self.forwards.checks.forwards += 1
            if fault is not None:
                self.forwards.contradict(frame, fault)
        except Unreadable:
            return  # not counted as checked
        except Exception as error:  # noqa: BLE001 - as above
            self.fail(f"{site.path}: its cache could not be checked", error)

    @skipped
    def _unready(self, inner: Method, site: Site, stand_in: Method, args: Args, kwargs: Kwargs) -> Any:
        """Call a site whose record is not ready: the first time in a kind of forward, or outside of any."""
        forwards = self.forwards
        if forwards.closed or forwards.muted or compiler.is_compiling():
            return inner(*args, **kwargs)
        state = forwards.threads.state
        frame = state.frame
        if frame is None or not frame.table.holds(site.number):
            return self._alone(inner, site, stand_in, args, kwargs)
        try:
            self._check_first(state, frame, site, args, kwargs)
        except Exception as error:  # noqa: BLE001 - as above
            self.fail(site.path, error)
        frame.table.admit(site.number)
        return stand_in(*args, **kwargs)

    @shielded
    def _check_first(self, state: ThreadState, frame: Frame, site: Site, args: Args, kwargs: Kwargs) -> None:
        """Compare the first call of a site in a kind of forward with what its cost was derived from."""
        self._compare(
            state,
            frame,
            site,
            lambda priced: first_call_fault(site, priced, self.caches, args, kwargs, frame.padded_rows),
        )

    def check_rows(self, state: ThreadState, frame: Frame, site: Site, shown: Args) -> None:
        """Compare the tensors that a site's first call in compiled code shows with what its cost was derived from."""
        self._compare(state, frame, site, lambda priced: rows_fault(site, priced, shown, {}, frame.padded_rows))

    def _compare(self, state: ThreadState, frame: Frame, site: Site, fault_of: Callable[[Priced], str | None]) -> None:
        costs, checks = frame.costs, self.forwards.checks
        costs.checked.add(site.number)
        if costs.description is None:
            return
        try:
            fault = fault_of(costs.price(site.number, frame.kv_len))
        except Unreadable:
            checks.unchecked += 1
            return
        checks.calls += 1
        if fault is not None:
            self.forwards.contradict_site(state, site, fault)
            self.fail(f"{site.path}: its cost is unknown", ValueError(fault))

    @skipped
    def _alone(self, inner: Method, site: Site, stand_in: Method, args: Args, kwargs: Kwargs) -> Any:
        """Call a site outside of any forward that it belongs to: somebody calls a layer himself."""
        state = self.forwards.threads.state
        outer = state.frame
        try:
            try:
                self.begin(state, site, partial(self._read_alone, site), args, kwargs)
            except Exception as error:  # noqa: BLE001 - as above
                self.fail(site.path, error)
            if state.frame is outer:
                return inner(*args, **kwargs)
            return stand_in(*args, **kwargs)
        finally:
            self._close(state, outer)

    def _read_alone(self, site: Site, args: Args, kwargs: Kwargs) -> ForwardSignature:
        experts = "eager"
        with suppress(Unreadable):  # only experts need to know
            experts = experts if self.lists_experts else experts_of(self.config)
        return lone_signature(site, self.caches, args, kwargs, experts)
