"""Emitters that listen in place of NVTX: what was pushed, popped and announced, with a clock that only they advance."""

from typing import TYPE_CHECKING

import numpy as np
from attrs import define, field

from dsocr_nvtx.schema.records import Stage
from tests.builders.nsys import NsysFile

if TYPE_CHECKING:
    from dsocr_nvtx.hooks.emit import Words  # which needs torch


@define
class Pushed:
    """A range that was pushed: its message, stage, payload and times."""

    path: str
    stage: str
    values: list[int]
    start: int
    end: int | None = None


@define
class Listener:
    """Keeps everything; `pop` without a range open is an error, so that pushes and pops must pair."""

    ranges: list[Pushed] = field(factory=list)
    marks: list[tuple[int, str]] = field(factory=list)
    stack: list[Pushed] = field(factory=list)
    clock: int = 0
    active: bool = True
    announces: bool = True

    def prepare(self, path: str, stage: int, words: "Words") -> object:
        """Return what `push` needs."""
        return (path, str(list(Stage)[stage]), words)

    def tick(self) -> int:
        """Advance the clock."""
        self.clock += 10
        return self.clock

    def push(self, attributes: object) -> object:
        """Open a range and copy its payload, as NVTX does."""
        assert isinstance(attributes, tuple)
        path, stage, words = attributes
        assert isinstance(words, np.ndarray)
        pushed = Pushed(path, stage, words.tolist(), self.tick())
        self.ranges.append(pushed)
        self.stack.append(pushed)
        return None

    def pop(self) -> object:
        """Close the innermost range."""
        self.stack.pop().end = self.tick()
        return None

    def mark(self, text: str) -> object:
        """Keep an announcement."""
        self.marks.append((self.tick(), text))
        return None

    def as_nsys(self, *, payloads: bool = True, announcements: bool = True) -> NsysFile:
        """Return what was heard as an export, with one kernel launched in the middle of every innermost range."""
        file = NsysFile()
        file.device(pids=[1])
        file.domain(1)
        file.schema()
        parents = {id(outer) for outer in self.ranges for inner in self.ranges if _inside(inner, outer)}
        for pushed in self.ranges:
            assert pushed.end is not None
            values = pushed.values if payloads else None
            file.push_pop(pushed.path, 100 * pushed.start, 100 * pushed.end, stage=pushed.stage, values=values)
            if id(pushed) not in parents:
                middle = 50 * (pushed.start + pushed.end)
                file.launch(f"gemm_{pushed.path}", middle, middle + 20, middle + 400)
        for time, text in self.marks if announcements else ():
            file.mark(text, 100 * time)
        return file


def _inside(inner: Pushed, outer: Pushed) -> bool:
    assert inner.end is not None
    assert outer.end is not None
    return outer.start < inner.start and inner.end < outer.end
