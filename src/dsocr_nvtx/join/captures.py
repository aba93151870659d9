"""When threads captured CUDA graphs: between the calls that begin and end a capture."""

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import Ints, coded, groups, latest, numbers


@frozen(eq=False)
class Captures:
    """Captures of the trace: thread and window of each."""

    pid: Ints
    tid: Ints
    begin: Ints
    end: Ints

    def of(self, pid: Ints, tid: Ints, time: Ints) -> Ints:
        """Return the capture that was under way on a thread at each instant, or -1."""
        count = len(self.begin)
        if not count:
            return np.full(len(time), -1)
        key, _ = groups(np.concatenate([self.pid, pid]), np.concatenate([self.tid, tid]))
        last = latest(key[:count], self.begin, key[count:], time)
        return np.where((last >= 0) & (self.end[last] >= time), last, -1)


def captures(launches: pa.Table) -> Captures:
    """Return every capture, from the call that begins it to the next one on the thread that ends one."""
    codes, names = coded(launches, "name")
    begins, ends = (
        np.flatnonzero(np.isin(codes, [code for code, name in enumerate(names) if word in name]))
        for word in ("StreamBeginCapture", "StreamEndCapture")
    )
    pid, tid, start, end = (numbers(launches, name) for name in ("pid", "tid", "start_ns", "end_ns"))
    ends = ends[np.argsort(end[ends], kind="stable")]
    # The first end at or after a begin is the last one when time runs backwards.
    key, _ = groups(np.concatenate([pid[ends], pid[begins]]), np.concatenate([tid[ends], tid[begins]]))
    found = latest(key[: len(ends)], -end[ends], key[len(ends) :], -start[begins])
    begins, found = begins[found >= 0], found[found >= 0]
    return Captures(pid[begins], tid[begins], start[begins], end[ends[found]])
