"""What one thread has under way: the forward whose calls are hooked now, and the forwards around it."""

from array import array
from threading import get_native_id, local
from typing import Any, NamedTuple

from attrs import define, field

from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.payloads import PayloadTable
from dsocr_nvtx.hooks.prices import ForwardCosts
from dsocr_nvtx.schema.records import Stage


class Log(list[int]):
    """Four numbers of every call of a forward: site, event id, start, end. The native recorder has its own type."""

    __slots__ = ()

    def packed(self, header: tuple[int, ...]) -> bytes:
        """Return a header's numbers and the log's own, as bytes of int64."""
        return array("q", [*header, *self]).tobytes()


class Mark(NamedTuple):
    """A call in compiled code that is under way: its site's number, its event id, and when it began."""

    number: int
    event_id: int
    start_ns: int


@define(eq=False)
class Frame:
    """A forward under way: what its calls cost, its stage and step, and what surrounds it on the thread.

    ``said``: the stage was said, by the user or by what is around, rather than inferred. ``captured``: its calls go
    into a CUDA graph and run nothing. ``log`` takes four numbers of every call.
    ``begins_at`` is where the session's log ended when the forward began. ``marks`` are calls in compiled code that are
    under way; ``graphed``: calls went into a CUDA graph that torch.compile makes. ``padded_rows``: the rows that its
    calls are given where an engine fills a step up; 0 where it does not.
    """

    table: PayloadTable
    stage: Stage
    step: int
    said: bool
    kv_len: int
    captured: bool
    outer: "Frame | None"
    event_id: int
    log: Log
    begins_at: int = 0
    event: Any = None
    contradicted: bool = False
    has_inner: bool = False
    marks: list[Mark] = field(factory=list)
    graphed: bool = False
    padded_rows: int = 0

    @property
    def costs(self) -> ForwardCosts:
        """The kind of forward."""
        return self.table.costs

    def is_inside_step_of(self, stage: Stage) -> bool:
        """Say whether this or a forward around it is a step of a stage."""
        frame: Frame | None = self
        while frame is not None:
            if frame.stage is stage and frame.table.costs.root.is_stage:
                return True
            frame = frame.outer
        return False


class Kept:
    """What a recorder reads and writes of a thread's state; the native recorder has a type of its own for it."""

    __slots__ = ("attributes", "base", "log", "next_id", "words")


class ThreadState:
    """One thread's part of a session; `state_type` makes the class that keeps it.

    ``attributes``, ``words``, ``base`` and ``log`` are those of the innermost frame, kept here for the recorders: what
    to push at each site (None: read the call first), where to write the event id, where to log the call. ``next_id``
    is the event id of the next range. ``generating`` and ``prefilling`` count the calls of `generate` and of its
    prefill under way, ``prefilled`` says that the latter is over.
    """

    attributes: list[object]
    base: int
    log: Log
    new_log: type[Log]
    next_id: int
    words: Any
    announced: dict[tuple[Stage, int], tuple[object, ...]]
    frame: Frame | None
    generating: int
    native_id: int
    prefilled: bool
    prefilling: int
    tables: dict[tuple[int, Stage], PayloadTable]

    def __init__(self, block: int, nothing: list[object]) -> None:
        self.next_id = block << 40  # ids of different threads lie in different blocks, so they never meet
        self.native_id = get_native_id()
        self.frame, self.attributes, self.log, self.base = None, nothing, self.new_log(), 0
        self.words = bytearray()
        self.tables, self.announced = {}, {}
        self.generating = self.prefilling = 0
        self.prefilled = False

    def table(self, costs: ForwardCosts, stage: Stage, kv_len: int, emitter: Emitter) -> PayloadTable:
        """Return this thread's table of a kind of forward; a new one where the known one is in use further out."""
        known = self.tables.get((costs.number, stage))
        if known is None or known.in_use:
            known = PayloadTable(costs, stage, kv_len, emitter, len(self.attributes))
            known.admit(costs.root.number)
            self.tables.setdefault((costs.number, stage), known)
        return known

    def focus(self, frame: Frame | None, nothing: list[object]) -> None:
        """Make a frame the one whose calls are hooked; None: no forward is under way."""
        self.frame = frame
        if frame is None:
            self.attributes, self.log = nothing, self.new_log()
        else:
            table = frame.table
            self.attributes, self.words, self.base, self.log = table.attributes, table.words, table.base, frame.log


def state_type(kept: type, log: type) -> type[ThreadState]:
    """Return the class of states of which ``kept`` holds what the recorder needs, and ``log`` the calls."""
    slots = ("announced", "frame", "generating", "native_id", "prefilled", "prefilling", "tables")
    return type("State", (ThreadState, kept), {"__slots__": slots, "new_log": log})


class Threads(local):
    """The state of each thread, made when the thread is first seen."""

    def __init__(self, make: Any) -> None:
        self.state: ThreadState = make()
