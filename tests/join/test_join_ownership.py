"""Every nanosecond has one owner: fast division against instant-by-instant loops, and sums without remainder."""

from collections.abc import Iterable
from random import Random
from typing import Any

import numpy as np
import pytest
from attrs import evolve, fields
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.join.ownership import Cause, Gaps, IdlePieces, busy_owned, cause_of, gaps, idle_blocks, union_by_group
from tests.join import slow
from tests.join.slow import Span, nested
from tests.join.test_join_nesting import column, forest

intervals = st.tuples(st.integers(-20, 20), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))
CAUSES = list(Cause)


def together(kind: Any, parts: Iterable[Any]) -> Any:
    """Return what came in parts as one."""
    names = [each.name for each in fields(kind)]
    each = [kind(*[column([])] * len(names)), *parts]
    return kind(*(np.concatenate([getattr(part, name) for part in each]) for name in names))


def idle_pieces(found: Gaps, threads: list[tuple[int, int]], launcher: Any, *others: Any) -> IdlePieces:
    """Return the pieces of all gaps together."""
    whole: IdlePieces = together(IdlePieces, idle_blocks([(found, launcher)], threads, *others))
    return whole


def all_gaps(*given: Any, at_once: int = 3) -> Gaps:
    """Return all gaps together."""
    whole: Gaps = together(Gaps, gaps(*given, at_once=at_once))
    return whole


def test_busy_time_by_hand() -> None:
    # A 0..10, B 5..15 overlaps A's end, C 6..9 runs under A alone, D 20..22 runs alone.
    start, end = column([0, 5, 6, 20]), column([10, 15, 9, 22])
    # A owns 0..10, B what is left of it 10..15, C nothing, D 20..22
    assert busy_owned(start, end, column([0, 1, 2, 3])).tolist() == [10, 5, 0, 2]


def test_of_operations_that_start_together_the_longest_owns_and_of_twins_the_first_in_rank() -> None:
    start, end = column([0, 0, 0]), column([4, 9, 9])
    assert busy_owned(start, end, column([0, 2, 1])).tolist() == [0, 0, 9]


@given(st.lists(intervals, max_size=15), st.randoms(use_true_random=False))
def test_busy_time_is_owned_by_the_first_started(pairs: list[tuple[int, int]], random: Random) -> None:
    ties = list(range(len(pairs)))
    random.shuffle(ties)
    spans = [(start, end, tie) for (start, end), tie in zip(pairs, ties, strict=True)]
    expected = [0] * len(spans)
    for time in range(-20, 33):
        owner = slow.owner(spans, time)
        if owner is not None:
            expected[owner] += 1
    start, end, tie = (column([span[i] for span in spans]) for i in range(3))
    owned = busy_owned(start, end, tie)
    assert owned.tolist() == expected
    assert int(owned.sum()) == slow.union(pairs)


@given(st.lists(st.tuples(st.integers(0, 4), intervals), max_size=20))
def test_unions_by_group(rows: list[tuple[int, tuple[int, int]]]) -> None:
    group, start, end = (
        column([g for g, _ in rows]),
        column([s for _, (s, _) in rows]),
        column([e for _, (_, e) in rows]),
    )
    expected = [slow.union([span for g, span in rows if g == group]) for group in range(6)]
    assert union_by_group(group, start, end, 6).tolist() == expected


def test_unions_do_not_overflow_on_true_times() -> None:
    # Unix nanoseconds are near 2^60.6; lifting groups apart by their length would leave int64.
    base = 1_790_000_000_000_000_000
    group, start = column([0, 5, 5]), column([base, base, base + 4])
    assert union_by_group(group, start, start + 6, 6).tolist() == [6, 0, 0, 0, 0, 10]


@given(st.lists(intervals, min_size=1, max_size=12))
def test_gaps_are_what_no_operation_covers(pairs: list[tuple[int, int]]) -> None:
    start, end = column([s for s, _ in pairs]), column([e for _, e in pairs])
    tie = column(list(range(len(pairs))))
    found = all_gaps(start, end, tie, (-25, 40))
    idle = [t for a, b in zip(found.start.tolist(), found.end.tolist(), strict=True) for t in range(a, b)]
    busy = {t for s, e in pairs for t in range(s, e)}
    assert idle == [t for t in range(-25, 40) if t not in busy]
    for finish, following in zip(found.end.tolist(), found.next_op.tolist(), strict=True):
        if following >= 0:
            assert start[following] == finish
            assert following == min(row for row, (begin, _) in enumerate(pairs) if begin == finish)
        else:
            assert finish == 40


def test_gaps_by_hand() -> None:
    found = all_gaps(column([20, 0]), column([22, 10]), column([0, 1]), (-5, 30))
    assert list(zip(found.start.tolist(), found.end.tolist(), found.next_op.tolist(), strict=True)) == [
        (-5, 0, 1),
        (10, 20, 0),
        (22, 30, -1),
    ]


@given(st.data())
def test_idle_time_is_divided_by_what_the_next_launcher_did_at_each_instant(data: st.DataObject) -> None:
    spans, called = data.draw(nested(6)), data.draw(nested(6).map(lambda calls: list(dict.fromkeys(calls))))
    pairs = data.draw(st.lists(intervals, min_size=1, max_size=6))
    start, end = column([s for s, _ in pairs]), column([e for _, e in pairs])
    found = all_gaps(start, end, column(list(range(len(pairs)))), (-25, 40))
    waits = data.draw(st.lists(st.integers(0, 30), min_size=len(found.start), max_size=len(found.start)))
    found = evolve(found, queued=np.minimum(found.start + column(waits), found.end))
    threads = [(1, 1), (1, 2), (2, 1)]
    launcher = column(data.draw(st.lists(st.integers(-1, 2), min_size=len(found.start), max_size=len(found.start))))
    kinds = data.draw(st.lists(st.integers(0, 3), min_size=len(called), max_size=len(called)))
    ranges, calls = forest(spans), forest(called)
    cause_of_call = column([kinds[row] for row in calls.order])
    pieces = idle_pieces(found, threads, launcher, ranges, calls, cause_of_call)
    owners: dict[int, tuple[Span | None, int]] = {}
    for a, b, owner, cause in zip(
        pieces.start.tolist(), pieces.end.tolist(), pieces.owner.tolist(), pieces.cause.tolist(), strict=True
    ):  # fmt: skip
        assert a < b
        for time in range(a, b):
            assert time not in owners, "a nanosecond has one owner"
            owners[time] = (spans[ranges.order[owner]] if owner >= 0 else None, cause)
    expected: dict[int, tuple[Span | None, int]] = {}
    for gap, index in enumerate(launcher.tolist()):
        for time in range(int(found.start[gap]), int(found.end[gap])):
            expected[time] = (None, CAUSES.index(Cause.NONE))
            around = slow.innermost(spans, threads[index], time, closed=False) if index >= 0 else None
            if around is not None:
                call = slow.innermost(called, threads[index], time, closed=False)
                doing = CAUSES.index(Cause.HOST) if call is None else kinds[called.index(call)]
                expected[time] = (around, CAUSES.index(Cause.QUEUED) if time >= found.queued[gap] else doing)
    assert owners == expected


def test_idle_pieces_by_hand() -> None:
    # One gap 0..100. On the launching thread: range A 10..90, in it B 40..60; a synchronising call 50..70.
    ranges = forest([Span(1, 1, 10, 90), Span(1, 1, 40, 60)])
    calls = forest([Span(1, 1, 50, 70)])
    found = all_gaps(column([100]), column([110]), column([0]), (0, 110))
    pieces = idle_pieces(found, [(1, 1)], column([0]), ranges, calls, column([CAUSES.index(Cause.SYNC)]))
    rows = zip(pieces.start.tolist(), pieces.end.tolist(), pieces.owner.tolist(), pieces.cause.tolist(), strict=True)
    assert [(a, b, owner, str(CAUSES[cause])) for a, b, owner, cause in rows] == [
        (0, 10, -1, "none"),
        (10, 40, 0, "host"),
        (40, 50, 1, "host"),
        (50, 60, 1, "sync"),
        (60, 70, 0, "sync"),
        (70, 90, 0, "host"),
        (90, 100, -1, "none"),
    ]


def test_an_operation_that_was_queued_long_before_waits_for_no_host() -> None:
    # The same gap; the launch had returned so early that the operation should have begun at 55 at the latest.
    ranges, calls = forest([Span(1, 1, 10, 90)]), forest([Span(1, 1, 50, 70)])
    found = evolve(all_gaps(column([100]), column([110]), column([0]), (0, 110)), queued=column([55]))
    pieces = idle_pieces(found, [(1, 1)], column([0]), ranges, calls, column([CAUSES.index(Cause.SYNC)]))
    rows = zip(pieces.start.tolist(), pieces.end.tolist(), pieces.owner.tolist(), pieces.cause.tolist(), strict=True)
    assert [(a, b, owner, str(CAUSES[cause])) for a, b, owner, cause in rows] == [
        (0, 10, -1, "none"),
        (10, 50, 0, "host"),
        (50, 55, 0, "sync"),
        (55, 70, 0, "queued"),
        (70, 90, 0, "queued"),
        (90, 100, -1, "none"),
    ]


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        ("cudaLaunchKernel_v7000", "launch"), ("cudaLaunchKernelExC_v11060", "launch"), ("cuLaunchKernelEx", "launch"),
        ("cudaGraphLaunch_v10000", "launch"), ("cudaDeviceSynchronize_v3020", "sync"), ("cudaEventQuery_v3020", "sync"),
        ("cudaStreamSynchronize_v3020", "sync"), ("cudaMemcpyAsync_v3020", "memory"), ("cudaMalloc_v3020", "memory"),
        ("cudaFree_v3020", "memory"), ("cuMemcpyHtoDAsync_v2", "memory"), ("cudaMemsetAsync_v3020", "memory"),
        ("cudaHostAlloc_v3020", "memory"), ("cudaEventRecord_v3020", "host"), ("cudaGetDevice", "host"), ("", "host"),
    ],
)  # fmt: skip
def test_a_call_is_a_launch_a_wait_a_memory_call_or_host_work(call: str, cause: str) -> None:
    assert cause_of(call) == cause


def test_no_operations_own_nothing() -> None:
    nothing = column([])
    assert busy_owned(nothing, nothing, nothing).tolist() == []
    assert union_by_group(nothing, nothing, nothing, 3).tolist() == [0, 0, 0]
    found = all_gaps(nothing, nothing, nothing, (0, 7))
    assert (found.start.tolist(), found.end.tolist(), found.next_op.tolist()) == ([0], [7], [-1])
    pieces = idle_pieces(found, [], np.full(1, -1), Forest.build(*[nothing] * 4), Forest.build(*[nothing] * 4), nothing)
    assert (pieces.end - pieces.start).tolist() == [7]
