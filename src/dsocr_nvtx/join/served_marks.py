"""What a serving engine's marks tell, as they stand, and how much of it fits the ranges of the report."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
from attrs import field, frozen

from dsocr_nvtx.schema.served import (
    REQUEST_PREFIX,
    SERVED_PREFIX,
    RequestMark,
    ServedMark,
    parse_request_mark,
    parse_served_mark,
)


@frozen(kw_only=True)
class ServedWork:
    """How many steps and requests marks told of, and what of that does not fit; ``contradiction``: the first, in words.

    ``without_range``: steps of which the report has no range; ``contradicted``: steps of which the ranges tell other
    sequences, rows, keys, or another stage; ``damaged``: marks that begin as these do and cannot be read. ``idle_ns``
    is the idle time of all GPUs by owner, as in REQUESTS, from the first arrival or step to the last end of one.
    """

    steps: int = 0
    requests: int = 0
    without_range: int = 0
    contradicted: int = 0
    contradiction: str = ""
    damaged: int = 0
    idle_ns: dict[str, int] = field(factory=dict)


@frozen(eq=False)
class ServedMarks:
    """Marks of steps, by process, and of requests, by process and time; both in order of time."""

    steps: tuple[tuple[int, ServedMark], ...]
    requests: tuple[tuple[int, int, RequestMark], ...]
    damaged: int

    def __bool__(self) -> bool:
        return bool(self.steps or self.requests or self.damaged)


def read_served(announcements: pa.Table) -> ServedMarks:
    """Return what the marks of an ANNOUNCEMENTS table tell of steps and requests; a step that is told twice, once."""
    steps = [(pid, parse_served_mark(text)) for pid, _, text in _beginning(announcements, SERVED_PREFIX)]
    requests = [(pid, time, parse_request_mark(text)) for pid, time, text in _beginning(announcements, REQUEST_PREFIX)]
    damaged = Counter(mark is None for *_, mark in (*steps, *requests))[True]
    first = {(pid, mark.event_id): (pid, mark) for pid, mark in reversed(steps) if mark is not None}
    return ServedMarks(
        tuple(reversed(first.values())),
        tuple((pid, time, mark) for pid, time, mark in requests if mark is not None),
        damaged,
    )


def _beginning(announcements: pa.Table, prefix: str) -> list[tuple[int, int, str]]:
    """Return process, time and text of the marks that begin so, in order of time."""
    ours = announcements.filter(pc.starts_with(announcements["text"], prefix)).sort_by("time_ns")
    return list(zip(*(ours[name].to_pylist() for name in ("pid", "time_ns", "text")), strict=True))
