"""What the host does besides the model, on any thread of any process: who a device waits for while nobody launches.

Contract: of all ``host.*`` ranges of a report that are open at an instant, the one that began last counts, which on its
thread is the innermost; of several that began together, the shortest. ``host.engine``, an engine's loop around all that
it does, counts only where no other does: the loop of a process may do no more than wait for another's. What counts owns
the device's idle time of instants in which no range at all is open on the thread that makes the device's next launch
(or that thread is not known), with cause ``host``. Every instant keeps one owner, so busy + idle = wall holds still.
"""

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.columns import Ints, coded
from dsocr_nvtx.join.nesting import Forest, Timeline
from dsocr_nvtx.join.ownership import Cause, IdlePieces
from dsocr_nvtx.schema.records import HOST_LOOP, is_host

_EVERYWHERE = (0, 0)
"""All threads as if they were one: climbing from the range that began last needs no nesting, only ends."""


@frozen(eq=False)
class HostWork:
    """The host ranges of a report; those of ``before`` count before those of ``after``."""

    before: "_Together"
    after: "_Together"

    @classmethod
    def of(cls, nvtx: pa.Table, ranges: Forest) -> "HostWork":
        """Find the host ranges among all, which are rows of NVTX."""
        path, paths = coded(nvtx, "path")
        loops = np.array([word == HOST_LOOP for word in paths], bool)
        others = np.array([is_host(word) for word in paths], bool) & ~loops
        return cls(
            *(_Together.of(wanted[path][ranges.rows] if wanted.any() else None, ranges) for wanted in (others, loops))
        )

    @property
    def span(self) -> tuple[int, ...]:
        """First begin and last end; nothing where there is none."""
        spans = [some.span for some in (self.before, self.after) if some.span]
        return (min(begin for begin, _ in spans), max(end for _, end in spans)) if spans else ()

    def open_at(self, time: int) -> int:
        """Return the position of the range that counts at an instant, or -1."""
        found = self.before.open_at(time)
        return found if found >= 0 else self.after.open_at(time)

    def claimed(self, pieces: IdlePieces) -> IdlePieces:
        """Return idle time, what nobody owned of it cut where host ranges begin and end, and owned by those."""
        return self.after.claimed(self.before.claimed(pieces))


@frozen(eq=False)
class _Together:
    """Some ranges of all threads together; ``position`` is each one's place in the forest of all ranges."""

    position: Ints
    timeline: Timeline

    @classmethod
    def of(cls, wanted: Mask | None, ranges: Forest) -> "_Together":
        mine = np.flatnonzero(wanted) if wanted is not None else np.zeros(0, np.int64)
        thread = np.zeros(len(mine), np.int64)
        together = Forest.build(thread, thread, ranges.start[mine], ranges.end[mine])
        return cls(mine[together.rows], together.timeline(_EVERYWHERE))

    @property
    def span(self) -> tuple[int, int] | None:
        forest = self.timeline.forest
        return (int(forest.start[0]), int(self.timeline.ends[-1])) if len(self.position) else None

    def open_at(self, time: int) -> int:
        (found,) = self.timeline.forest.innermost(_EVERYWHERE, np.array([time]), closed=True).tolist()
        return int(self.position[found]) if found >= 0 else -1

    def claimed(self, pieces: IdlePieces) -> IdlePieces:
        nobody = np.flatnonzero(pieces.owner < 0)
        if not len(nobody) or not len(self.position):
            return pieces
        start, end = pieces.start[nobody], pieces.end[nobody]
        edges, open_then = self.timeline.between(start.min(), end.max())
        first, last = np.searchsorted(edges, start, side="right"), np.searchsorted(edges, end, side="left")
        count = last - first + 1
        piece = np.repeat(np.arange(len(nobody)), count)
        # Of the stretches between edges, the one that each part lies in: a piece lies in some in a row.
        stretch = np.arange(len(piece)) - np.repeat(np.cumsum(count) - count - first, count)
        bounds = np.concatenate([start.min(keepdims=True), edges, end.max(keepdims=True)])
        begins, ends = np.maximum(bounds[stretch], start[piece]), np.minimum(bounds[stretch + 1], end[piece])
        found = open_then[stretch]
        owner = np.where(found >= 0, self.position[found], -1)
        cause = np.where(found >= 0, list(Cause).index(Cause.HOST), pieces.cause[nobody][piece])
        kept, others = np.flatnonzero(ends > begins), np.flatnonzero(pieces.owner >= 0)
        return IdlePieces(
            np.concatenate([pieces.start[others], begins[kept]]),
            np.concatenate([pieces.end[others], ends[kept]]),
            np.concatenate([pieces.owner[others], owner[kept]]),
            np.concatenate([pieces.cause[others], cause[kept]]),
        )
