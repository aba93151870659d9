"""Calls inside code that torch.compile made: markers say when each begins and ends, the forward around says the rest.

An entry's stand-in runs on the host at every call and opens the frame, whatever is compiled inside. A replayed CUDA
graph fires no marker: such a forward stands for the calls that were captured in one of its kind.
"""

from collections.abc import Mapping, Sequence
from time import perf_counter_ns

import torch
from attrs import frozen

from dsocr_nvtx.hooks.caches import Unreadable
from dsocr_nvtx.hooks.forwards import Forwards
from dsocr_nvtx.hooks.payloads import WIDTH
from dsocr_nvtx.hooks.readers import Args, ForwardSignature, Kwargs, Reader
from dsocr_nvtx.hooks.sites import Site
from dsocr_nvtx.hooks.standins import StandIns
from dsocr_nvtx.hooks.threads import Frame, Mark, ThreadState


@frozen(eq=False)
class CompiledCalls:
    """Hears the markers of one session. What goes wrong in here goes to the session, never to the model."""

    forwards: Forwards
    make: StandIns
    sites: Sequence[Site]
    readers: Mapping[str, Reader]

    def __call__(self, number: int, enters: bool, shown: list[torch.Tensor]) -> None:
        """Open or close the range of a site, on the calling thread."""
        forwards, site = self.forwards, self.sites[number]
        if forwards.closed or forwards.muted:
            return
        state = forwards.threads.state
        try:
            if enters:
                self._enter(state, site, shown)
            else:
                self._leave(state, site)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
            self.make.fail(site.path, error)

    def _enter(self, state: ThreadState, site: Site, shown: list[torch.Tensor]) -> None:
        if site.is_entry:
            self._begin(state, site, shown)
        frame = state.frame
        if frame is None or not frame.table.holds(site.number):
            where = "a part of the model was compiled and called by itself"
            self.make.fail(where, Unreadable("calls inside have no range; call the whole model"))
            return
        if not site.is_entry:
            frame = self._here(state, frame)
            if state.attributes[site.number] is None:
                self.make.check_rows(state, frame, site, tuple(shown))
                frame.table.admit(site.number)
        self._push(state, frame, site.number)

    def _begin(self, state: ThreadState, site: Site, shown: list[torch.Tensor]) -> None:
        """Begin a forward whose entry lies inside of compiled code."""
        outer = state.frame
        self.make.begin(state, site, self._reader(site), tuple(shown), {})
        frame = state.frame
        if frame is not None and frame is not outer and outer is not None and frame.captured and not outer.captured:
            frame.graphed = True

    def _here(self, state: ThreadState, frame: Frame) -> Frame:
        """Return the frame that a call belongs to: while a CUDA graph captures, one of what is captured."""
        captures = self.forwards.captures_now()
        if frame.captured == captures or self.forwards.capturing:
            return frame
        if frame.captured and frame.outer is not None:
            self.forwards.close(state, frame.outer)
            return frame.outer
        return self.forwards.capture(state, frame)

    def _push(self, state: ThreadState, frame: Frame, number: int) -> None:
        event_id = state.next_id
        state.next_id = event_id + 1
        state.words[number * WIDTH - state.base] = event_id
        if self.forwards.emitter.active:
            self.forwards.emitter.push(state.attributes[number])
        frame.marks.append(Mark(number, event_id, perf_counter_ns()))

    def _leave(self, state: ThreadState, site: Site) -> None:
        frame = state.frame
        while frame is not None and frame.captured and not frame.marks and not site.is_entry:
            frame = frame.outer  # the capture has ended inside of this call
        if frame is None or not any(mark.number == site.number for mark in frame.marks):
            return
        self.forwards.close(state, frame)
        self.forwards.leave(frame, site.number)
        if site.is_entry:
            self.forwards.close(state, frame.outer)

    def _reader(self, site: Site) -> Reader:
        return _compiled_whole if site.path == "model" else self.readers[site.path]


def _compiled_whole(_args: Args, _kwargs: Kwargs) -> ForwardSignature:
    """Read a whole forward whose call is inside of compiled code: its cache was no tensor, so nobody can see it."""
    raise Unreadable("it was compiled as a part of something else; compile the model itself: torch.compile(model)")
