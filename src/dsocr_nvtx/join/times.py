"""What a join measures: times per operation, per hooked call and per device; how those of operations become calls'."""

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import Ints, Places, Rows, blocks, numbers
from dsocr_nvtx.join.instants import Instants
from dsocr_nvtx.join.ownership import Cause, union_by_group

IDLE_CAUSES = (Cause.LAUNCH, Cause.SYNC, Cause.MEMORY, Cause.HOST, Cause.QUEUED)


@frozen(kw_only=True, eq=False)
class DeviceTime:
    """One device's wall time and who owns it. ``idle_ns`` is by cause; cause ``none`` has no range to own it."""

    device: int
    window: tuple[int, int]
    operations: int
    busy_ns: int
    idle_ns: dict[str, int]
    unknown_thread_ns: int

    @property
    def wall_ns(self) -> int:
        """Length of the window: from the first operation or hooked call to the last."""
        return self.window[1] - self.window[0]


@frozen
class LongGap:
    """One of a device's longest idle times while a hooked call was open; ``operation`` and ``call`` ended it, or -1."""

    device: int
    start: int
    end: int
    operation: int
    call: int


@frozen(eq=False)
class CallTimes:
    """Times of calls, one after another."""

    launches: Ints
    kernel_ns: Ints
    busy_ns: Ints
    busy_owned_ns: Ints
    idle_ns: dict[Cause, Ints]

    @property
    def columns(self) -> dict[str, object]:
        """The columns of MEASURED that they are."""
        idle = {f"idle_{cause}_ns": values for cause, values in self.idle_ns.items()}
        idle_owned = sum(idle.values(), np.zeros(len(self.launches), np.int64))
        return {
            "launches": self.launches,
            "kernel_ns": self.kernel_ns,
            "busy_ns": self.busy_ns,
            "busy_owned_ns": self.busy_owned_ns,
            "idle_owned_ns": idle_owned,
            **idle,
            "wall_ns": self.busy_owned_ns + idle_owned,
        }


@frozen(eq=False)
class Elsewhere:
    """Times of calls on other GPUs than their own, the device of each, and of each operation the place there, or -1."""

    call: Ints
    device: Ints
    times: CallTimes
    of_operation: Ints


@frozen(eq=False)
class Measured:
    """Times per operation (``op_busy_ns``), per range of the forest, per device, and each device's longest gaps.

    ``times`` are those on a range's own GPU, whose number is in ``device`` where that is told; the rest is elsewhere.
    ``instants`` are there where they were to be kept.
    """

    op_busy_ns: Ints
    times: CallTimes
    devices: list[DeviceTime]
    longest: list[LongGap]
    device: Ints
    elsewhere: Elsewhere | None = None
    instants: Instants | None = None

    def everywhere(self, name: str) -> Ints:
        """Return one of a range's times on all GPUs together."""
        total = getattr(self.times, name)
        if self.elsewhere is not None:
            total = total.copy()
            np.add.at(total, self.elsewhere.call, getattr(self.elsewhere.times, name))
        return np.asarray(total, np.int64)

    def rows(self, owner: Places) -> Places:
        """Return the row of MEASURED whose time each operation is, where ``owner`` is its range in the forest."""
        if self.elsewhere is None:
            return owner
        away = self.elsewhere.of_operation
        return np.where(away >= 0, away + len(self.device), owner)


def call_times(operations: pa.Table, op_busy: Ints, mine: Rows, owner: Places, idle_ns: dict[Cause, Ints]) -> CallTimes:
    """Return the times of calls: of some operations, of which ``owner`` says whose they are, and idle time."""
    count = len(idle_ns[Cause.HOST])
    start, end = numbers(operations, "start_ns")[mine], numbers(operations, "end_ns")[mine]
    owner, busy = owner[mine], op_busy[mine]
    launched, lasted, owned = np.zeros((3, count), np.int64)
    for part in blocks(len(owner)):
        np.add.at(launched, owner[part], 1)
        np.add.at(lasted, owner[part], end[part] - start[part])
        np.add.at(owned, owner[part], busy[part])
    return CallTimes(launched, lasted, union_by_group(owner, start, end, count), owned, idle_ns)
