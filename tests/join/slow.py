"""Slow, obvious versions of the join's searches: loops over nanoseconds and rows, nothing clever.

Times in property tests are small, so that every instant can be asked.
"""

from collections.abc import Sequence

from attrs import frozen
from hypothesis import strategies as st


@frozen
class Span:
    """An interval on a thread of a process."""

    pid: int
    tid: int
    start: int
    end: int

    @property
    def thread(self) -> tuple[int, int]:
        """The thread, as the forest names it."""
        return self.pid, self.tid


@st.composite
def nested(draw: st.DrawFn, most: int = 12, low: int = -20, high: int = 20) -> list[Span]:
    """Draw spans as pushes and pops make them: on each thread they nest, are disjoint, or touch; rows in any order."""
    spans: list[Span] = []
    for pid, tid in draw(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2)), max_size=3, unique=True)):
        moments = draw(st.lists(st.tuples(st.integers(low, high), st.booleans()), max_size=2 * most))
        stack: list[int] = []
        for moment, pops in sorted(moments, key=lambda drawn: drawn[0]):
            if stack and pops:
                spans.append(Span(pid, tid, stack.pop(), moment))
            else:
                stack.append(moment)
        spans.extend(Span(pid, tid, start, high) for start in stack)
    return draw(st.permutations(spans))


def innermost(spans: Sequence[Span], thread: tuple[int, int], time: int, *, closed: bool) -> Span | None:
    """Return the span open at an instant on a thread that began last; of several, the shortest."""
    here = [s for s in spans if s.thread == thread and s.start <= time and (time <= s.end if closed else time < s.end)]
    return min(here, key=lambda s: (-s.start, s.end), default=None)


def parent(spans: Sequence[Span], row: int) -> Span | None:
    """Return the smallest span of the thread around a row's; of equal spans, one is the other's parent."""
    mine = spans[row]
    around = [
        s for i, s in enumerate(spans)
        if i != row and s.thread == mine.thread and s.start <= mine.start and mine.end <= s.end
        and (s.start, -s.end, i) < (mine.start, -mine.end, row)
    ]  # fmt: skip
    return min(around, key=lambda s: (-s.start, s.end), default=None)


def owner(spans: Sequence[tuple[int, int, int]], time: int) -> int | None:
    """Return the operation (start, end, tie) that owns the nanosecond after ``time``: the first to start."""
    running = [(start, -end, tie, i) for i, (start, end, tie) in enumerate(spans) if start <= time < end]
    return min(running)[3] if running else None


def union(spans: Sequence[tuple[int, int]]) -> int:
    """Return how many nanoseconds lie in any of the intervals."""
    return len({time for start, end in spans for time in range(start, end)})
