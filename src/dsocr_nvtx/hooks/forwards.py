"""Forwards under way: opening one makes its records ready on the thread, closing it keeps its calls."""

import itertools
from array import array
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from types import ModuleType
from typing import Any

import torch

from dsocr_nvtx.hooks.calls import CallLog
from dsocr_nvtx.hooks.captures import CompiledGraphs
from dsocr_nvtx.hooks.checks import Checks
from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.payloads import PayloadTable
from dsocr_nvtx.hooks.prices import ForwardCosts, Prices
from dsocr_nvtx.hooks.sites import Site
from dsocr_nvtx.hooks.threads import Frame, Kept, Log, Threads, ThreadState, state_type
from dsocr_nvtx.schema.payload import contradiction_mark
from dsocr_nvtx.schema.records import Stage

stream_is_capturing: Callable[[], bool] = getattr(torch._C, "_cuda_isCurrentStreamCapturing", lambda: False)
"""Whether calls go into a CUDA graph; never, by a build of torch without CUDA."""

# The one count that outlives a session: event ids are unique in a process, whatever hooks it has had before.
_BLOCKS = itertools.count()


class Forwards:
    """The forwards of one session, on all threads.

    ``muted``: forwards are priced and nothing else. ``closed``: the session has left. ``capturing``: calls go into the
    session's own CUDA graph. ``captured`` are the kinds of forwards that went into it.
    ``stale`` says why costs are not known any more, where the model was changed after it was hooked.
    """

    REPEAT_EVERY = 32
    """Announcements are repeated after so many steps, so that a capture that begins late still learns every cost."""

    def __init__(
        self, sites: Sequence[Site], emitter: Emitter, *, record: bool, on_gpu: bool, native: ModuleType | None = None
    ) -> None:
        self.emitter = emitter
        self.prices, self.checks = Prices(), Checks()
        self.log = CallLog(self.prices.forwards, sites)
        self.record = record
        self.graphs = CompiledGraphs(self.log)
        self.nothing: list[object] = [None] * len(sites)
        make = state_type(*((Kept, Log) if native is None else (native.State, native.Log)))
        self.threads = Threads(lambda: make(next(_BLOCKS), self.nothing))
        self.muted = self.closed = self.capturing = False
        self.captured: list[tuple[ForwardCosts, Stage]] = []
        self.stale = ""
        self.step_event: Callable[[], Any] | None = None
        self._on_gpu = on_gpu
        self._steps = dict.fromkeys(Stage, -1)
        self._begun = self._epoch = 0

    def step(self, stage: Stage) -> int:
        """Return the number of a stage's newest step."""
        return max(self._steps[stage], 0)

    def open(self, state: ThreadState, costs: ForwardCosts, stage: Stage, kv_len: int, *, said: bool) -> Frame:
        """Begin a forward on a thread: its records are up to date and announced, and recorders push them."""
        captured = self.captures_now()
        root, outer = costs.root, state.frame
        # A forward begins a step where nothing around it does, and where it is not captured.
        begins = root.is_stage and not captured and (outer is None or not outer.is_inside_step_of(stage))
        if begins:
            self._begin_step(stage)
        step = max(self._steps[stage], 0)
        table = state.table(costs, stage, kv_len, self.emitter)
        if self.emitter.active:  # else nobody reads the records
            table.update(step, kv_len)
        if self.emitter.announces:
            self._announce(state, table)
        begins_at = len(self.log.numbers)
        frame = Frame(table, stage, step, said, kv_len, captured, outer, state.next_id, state.new_log(), begins_at)
        if begins and self.step_event is not None:
            frame.event = self.step_event()
        if outer is not None and root.is_stage and not root.is_vision:
            _note_inner(outer)
        table.in_use = True
        state.focus(frame, self.nothing)
        return frame

    def captures_now(self) -> bool:
        """Say whether calls go into a CUDA graph."""
        return self.capturing or (self._on_gpu and stream_is_capturing())

    def capture(self, state: ThreadState, frame: Frame) -> Frame:
        """Begin, inside of a forward, the part of it that goes into a CUDA graph which torch.compile makes."""
        captured, log = True, state.new_log()
        inside = Frame(
            frame.table, frame.stage, frame.step, frame.said, frame.kv_len, captured, frame, state.next_id, log
        )
        inside.graphed = True
        state.focus(inside, self.nothing)
        return inside

    def leave(self, frame: Frame, number: int | None = None) -> None:
        """End the innermost call in compiled code of a site, and all inside of it; without a number all of them."""
        end_ns = perf_counter_ns()
        while frame.marks:
            mark = frame.marks.pop()
            frame.log += (mark.number, mark.event_id, mark.start_ns, end_ns)
            if self.emitter.active:
                self.emitter.pop()
            if mark.number == number:
                return

    def close(self, state: ThreadState, outer: Frame | None) -> None:
        """End the forwards that were opened on a thread inside of ``outer``, and keep their calls."""
        while state.frame is not None and state.frame is not outer:
            frame = state.frame
            if frame.marks:
                self.leave(frame)
            frame.table.in_use = False
            state.focus(frame.outer, self.nothing)
            if frame.graphed and frame.captured and frame.outer is not None:
                frame.outer.graphed = True
            if frame.event is not None and self.step_event is not None:
                self.log.events[frame.event_id] = (frame.event, self.step_event())
            costs = frame.table.costs
            if costs.description is None or costs.contradicted:
                self._count_unknown(frame)
            if self.capturing:
                self.captured.append((costs, frame.stage))
            if self.record:
                self.log.keep(frame, state.native_id)
                if frame.graphed or self.graphs.captured:
                    self.graphs.closed(frame, state.native_id)
            if frame.graphed and not frame.captured:
                self.announce_all()  # what was said before the capture may be older than what the capture holds

    def contradict(self, frame: Frame, fault: str) -> None:
        """Note that a forward's own tensors contradict its costs, and those of its kind."""
        frame.contradicted = True
        self.checks.contradictory += 1
        if not frame.costs.flags:
            frame.costs.contradict()
            frame.table.refresh(frame.kv_len)
            self.checks.contradictions.append(f"{frame.costs.root.path}: {fault}")
        if self.emitter.announces:
            self.emitter.mark(contradiction_mark(frame.event_id, fault))

    def contradict_site(self, state: ThreadState, site: Site, fault: str) -> None:
        """Note that the tensors of a site's first call do not fit: its cost is unknown in forwards of this kind."""
        assert state.frame is not None  # noqa: S101 - a first call lies in a forward
        frame = state.frame
        frame.costs.contradict(site.number)
        frame.table.refresh(frame.kv_len)
        self.checks.contradictions.append(f"{site.path}: {fault}")
        if self.emitter.announces:
            frame.table.announce_site(site.number, state.next_id)

    def announce(self, state: ThreadState, costs: ForwardCosts, stage: Stage, kv_len: int) -> None:
        """Announce a kind of forward that no call is made for: the launch of a graph stands for it."""
        table = state.table(costs, stage, kv_len, self.emitter)
        table.update(self.step(stage), kv_len)
        self._announce(state, table)

    def announce_all(self) -> None:
        """Let every cost be announced again at the next forward."""
        self._epoch += 1

    def discard(self) -> None:
        """Count steps from 0 again, and announce every cost again."""
        self._steps = dict.fromkeys(Stage, -1)
        self.announce_all()

    def _begin_step(self, stage: Stage) -> None:
        self._steps[stage] += 1
        self._begun += 1
        if self._begun % self.REPEAT_EVERY == 0:
            self._epoch += 1

    def _announce(self, state: ThreadState, table: PayloadTable) -> None:
        """Announce what a tool cannot know yet: all costs where others held last, else the one that says the length."""
        key, told = table.key, (table, self._epoch, table.told, table.told_beyond())
        before = state.announced.get(key, ())
        if before != told:
            table.announce(state.next_id, growing=before[:-1] == told[:-1])
            state.announced[key] = told
        elif table.costs.root.is_stage:
            table.announce_root(state.next_id)

    def _count_unknown(self, frame: Frame) -> None:
        costs = frame.costs
        if costs.description is None:
            self.checks.unknown += len(frame.log) // 4
        else:
            self.checks.unknown += sum(number in costs.contradicted for number in array("q", frame.log.packed(()))[::4])


def _note_inner(outer: Frame) -> None:
    """Tell the frames around a forward over tokens that there is one inside."""
    frame: Frame | None = outer
    while frame is not None:
        frame.has_inner = True
        frame = frame.outer
