"""What every reader returns: one profiled run as tables, whatever tool recorded it."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from attrs import evolve, frozen

from dsocr_nvtx.ingest.source import Ints


@frozen(kw_only=True)
class Device:
    """A GPU as the report describes it, memory ``bandwidth`` in B/s; zeros and empty text where it does not."""

    ordinal: int
    name: str
    sm_count: int = 0
    clock_hz: int = 0
    l2_bytes: int = 0
    uuid: str = ""
    bandwidth: int = 0
    capability: tuple[int, int] = (0, 0)


@frozen
class SetApart:
    """Records of a report that cannot be, and were left out: operations, calls or ranges; why; how many."""

    what: str
    why: str
    records: int

    def __str__(self) -> str:
        return f"{self.records:,} {self.what}{'' if self.records == 1 else 's'}: {self.why}"


@frozen(eq=False)
class Stacks:
    """Which chain of frames each call has, as (process id, correlation id), and the frames of every chain."""

    pid: Ints
    correlation: Ints
    chain: Ints
    frames: dict[int, tuple[str, ...]]

    def of(self, pid: int, correlation: int) -> tuple[str, ...]:
        """Return the frames behind a call, innermost first; none where the report has none."""
        rows = np.flatnonzero((self.pid == pid) & (self.correlation == correlation))
        found = (self.frames.get(chain, ()) for chain in self.chain[rows].tolist())
        return next((frames for frames in found if frames), ())


NO_STACKS = Stacks(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), {})


@frozen(kw_only=True)
class Trace:
    """A profiled run. Tables follow the schemas of the same names in `dsocr_nvtx.schema.tables`.

    Numbers may take fewer bytes than those say: ids of 32 bits, payloads' fields. ``announcements`` are the marks as
    they stand, ``costs`` and ``hits`` what was announced of costs and experts, by marks or otherwise. ``replays`` are
    written out by some recorders only; the join makes those of the others.

    ``devices`` is keyed by (process id, CUDA ordinal): a process numbers the devices that it can see. ``source`` says
    what the tables were read from: tool, versions, file hash. ``set_apart`` says what of it is not in the tables.
    """

    nvtx: pa.Table
    announcements: pa.Table
    costs: pa.Table
    hits: pa.Table
    launches: pa.Table
    operations: pa.Table
    graph_nodes: pa.Table
    replays: pa.Table
    devices: Mapping[tuple[int, int], Device]
    source: Mapping[str, str]
    stacks: Stacks = NO_STACKS
    set_apart: tuple[SetApart, ...] = ()

    def emptied(self) -> "Trace":
        """Return what it says of the devices and of its origin, without the rows, which take most of the memory."""
        tables = ("nvtx", "announcements", "costs", "hits", "launches", "operations", "graph_nodes", "replays")
        nothing = {name: getattr(self, name).schema.empty_table() for name in tables}
        return evolve(self, **nothing, stacks=NO_STACKS)


@frozen(kw_only=True)
class Projectable:
    """What projecting NVTX ranges needs of a run: EVERY_RANGE, LAUNCHES and OPERATIONS tables; the rest as `Trace`."""

    ranges: pa.Table
    launches: pa.Table
    operations: pa.Table
    source: Mapping[str, str]
    set_apart: tuple[SetApart, ...] = ()
