"""What a device did while a request was there: busy with its steps, busy with anything else, or idle, by owner.

The three add up to the time asked for, to the nanosecond. A step that many requests share is each one's own. Instants
before or after all that the report has of the device are idle, and outside every range.
"""

from collections.abc import Mapping, Sequence
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


def owners(ranges: pa.Table) -> tuple[Ints, list[str]]:
    """Return whom idle time of each row of MEASURED is told of: host work by its path, any other range by its stage."""
    (path, paths), (stage, stages) = coded(ranges, "path"), coded(ranges, "stage")
    words = list(dict.fromkeys([*filter(is_host, paths), *stages]))
    by_path = np.array([words.index(one) if is_host(one) else -1 for one in paths] or [-1], np.int64)[path]
    by_stage = np.array([words.index(one) for one in stages] or [0], np.int64)[stage]
    return np.where(by_path >= 0, by_path, by_stage), words


@frozen(kw_only=True)
class RequestTime:
    """Some time in parts, in ns: busy with own steps by step, busy with anything else, idle by owner, longest first."""

    own: dict[int, int]
    busy_others: int
    idle: dict[str, int]


@frozen(eq=False, slots=False)
class DeviceTimes:
    """The stretches of one device; of each the step that it is in (-1: none), and its owner's word, as a code."""

    stretches: Stretches
    step: Ints
    word: Ints
    words: Sequence[str]

    @classmethod
    def of(cls, stretches: Stretches, inside: Ints, told: tuple[Ints, Sequence[str]]) -> "DeviceTimes":
        """Take stretches whose owners are rows of a table, of which ``inside`` says the step and ``told`` the word."""
        word, words = told
        none = len(words)
        return cls(
            stretches, np.append(inside, -1)[stretches.owner], np.append(word, none)[stretches.owner], [*words, OUTSIDE]
        )

    def between(self, begin: int, end: int, steps: Sequence[int]) -> RequestTime:
        """Return what the device did from one instant to another, of which ``steps`` are somebody's own."""
        span = np.array([begin, end])
        busy = self._length(self._busy, span)
        own = {step: self._own(step, span) for step in steps}
        idle = {self.words[code]: self._length(lines, span) for code, lines in self._idle.items()}
        idle[OUTSIDE] = idle.get(OUTSIDE, 0) + (end - begin - busy - sum(idle.values()))
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
        for code in np.unique(self.word[~self.stretches.is_busy]).tolist():
            mine = ~self.stretches.is_busy & (self.word == code)
            found[code] = self.stretches.start[mine], self.stretches.end[mine]
        return found

    def _own(self, step: int, span: Ints) -> int:
        """Return how much of a step's busy time lies between two instants."""
        steps, start, end = self._by_step
        mine = slice(*np.searchsorted(steps, [step, step + 1]))
        return self._length((start[mine], end[mine]), span)

    @cached_property
    def _by_step(self) -> tuple[Ints, Ints, Ints]:
        """Busy stretches in steps, those of one step together, each in order of time."""
        rows = np.flatnonzero(self.stretches.is_busy & (self.step >= 0))
        rows = rows[np.argsort(self.step[rows], kind="stable")]
        return self.step[rows], self.stretches.start[rows], self.stretches.end[rows]
