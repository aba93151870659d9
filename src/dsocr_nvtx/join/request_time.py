"""What a device did while a request was there: busy with its steps, busy with anything else, or idle, by owner.

The three add up to the time asked for, to the nanosecond. A step that many requests share is each one's own. Instants
before or after all that the report has of the device are idle, and outside every range.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import Ints, coded
from dsocr_nvtx.join.instants import Stretches, time_before
from dsocr_nvtx.schema.records import is_host

OUTSIDE = "outside"
"""The owner of idle time in which no range is open."""


def longest_first(times: Mapping[str, int]) -> dict[str, int]:
    """Return times that are any, the longest first."""
    return dict(sorted((item for item in times.items() if item[1]), key=lambda item: (-item[1], item[0])))


@frozen(eq=False)
class Told:
    """Of each row of MEASURED its step (-1: none), its stage, and whom its idle time is told of, as codes of words."""

    step: Ints
    stage: Ints
    owner: Ints
    words: list[str]


def told_of(ranges: pa.Table, inside: Ints) -> Told:
    """Return what is told of each row of MEASURED: host work owns by its path, any other range by its stage."""
    (path, paths), (stage, stages) = coded(ranges, "path"), coded(ranges, "stage")
    words = list(dict.fromkeys([*filter(is_host, paths), *stages]))
    by_path = np.array([words.index(one) if is_host(one) else -1 for one in paths] or [-1], np.int64)[path]
    by_stage = np.array([words.index(one) for one in stages] or [0], np.int64)[stage]
    return Told(inside, by_stage, np.where(by_path >= 0, by_path, by_stage), words)


@frozen(kw_only=True)
class RequestTime:
    """Some time in parts, in ns, longest first: busy with own steps by stage, with anything else, and idle by owner."""

    own: dict[str, int]
    busy_others: int
    idle: dict[str, int]


@frozen(eq=False, slots=False)
class DeviceTimes:
    """The stretches of one device, and what is told of the rows that own them; the last stands for no row."""

    stretches: Stretches
    told: Told

    @classmethod
    def of(cls, stretches: Stretches, told: Told) -> "DeviceTimes":
        """Take stretches whose owners are rows of a table."""
        none = len(told.words)
        columns = ((told.step, -1), (told.stage, none), (told.owner, none))
        step, stage, owner = (np.append(column, last)[stretches.owner] for column, last in columns)
        return cls(stretches, Told(step, stage, owner, [*told.words, OUTSIDE]))

    def between(self, begin: int, end: int, steps: Sequence[int]) -> RequestTime:
        """Return what the device did from one instant to another, of which ``steps`` are somebody's own."""
        span = np.array([begin, end])
        busy = self._length(self._busy, span)
        own: dict[str, int] = {}
        for step in steps:
            for stage, ns in self._own(step, span):
                own[stage] = own.get(stage, 0) + ns
        idle = {self.told.words[code]: self._length(lines, span) for code, lines in self._idle.items()}
        idle[OUTSIDE] = idle.get(OUTSIDE, 0) + (end - begin - busy - sum(idle.values()))
        own = longest_first(own)
        return RequestTime(own=own, busy_others=busy - sum(own.values()), idle=longest_first(idle))

    @staticmethod
    def _length(lines: tuple[Ints, Ints], span: Ints) -> int:
        first, last = time_before(*lines, span).tolist()
        return int(last - first)

    @cached_property
    def _busy(self) -> tuple[Ints, Ints]:
        mine = self.stretches.is_busy
        return self.stretches.start[mine], self.stretches.end[mine]

    @cached_property
    def _idle(self) -> dict[int, tuple[Ints, Ints]]:
        found = {}
        for code in np.unique(self.told.owner[~self.stretches.is_busy]).tolist():
            mine = ~self.stretches.is_busy & (self.told.owner == code)
            found[code] = self.stretches.start[mine], self.stretches.end[mine]
        return found

    def _own(self, step: int, span: Ints) -> Iterator[tuple[str, int]]:
        """Yield how much of a step's busy time lies between two instants, by stage."""
        key, start, end = self._by_step
        count = len(self.told.words)
        low, high = np.searchsorted(key, [step * count, (step + 1) * count])
        for one in np.unique(key[low:high]).tolist():
            mine = slice(*np.searchsorted(key, [one, one + 1]))
            yield self.told.words[one % count], self._length((start[mine], end[mine]), span)

    @cached_property
    def _by_step(self) -> tuple[Ints, Ints, Ints]:
        """Busy stretches in steps, those of one step and stage together, each in order of time."""
        rows = np.flatnonzero(self.stretches.is_busy & (self.told.step >= 0))
        key = self.told.step[rows] * len(self.told.words) + self.told.stage[rows]
        order = np.argsort(key, kind="stable")
        return key[order], self.stretches.start[rows][order], self.stretches.end[rows][order]
