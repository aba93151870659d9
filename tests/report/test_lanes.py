"""Lanes: nothing overlaps that must not, each interval in the lowest lane that takes it."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.report.lanes import fitting, lanes, tracks

Span = tuple[int, int]
SPANS = st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 6)).map(lambda s: (s[0], s[0] + s[1])), max_size=9)


def clash(one: Span, other: Span, *, nested: bool) -> bool:
    """Say whether two intervals cannot share a lane."""
    first, then = sorted((one, other), key=lambda s: (s[0], -s[1] if nested else s[1]))
    return then[0] < first[1] and not (nested and then[1] <= first[1])


@given(SPANS, st.booleans())
def test_no_lane_holds_what_clashes_and_no_lower_lane_would_do(spans: list[Span], nested: bool) -> None:
    start, end = (np.array([span[i] for span in spans], np.int64) for i in (0, 1))
    lane = lanes(start, end, nested=nested).tolist()
    for (a, one), (b, other) in combinations(zip(lane, spans, strict=True), 2):
        assert a != b or not clash(one, other, nested=nested)
    order = sorted(range(len(spans)), key=lambda i: (spans[i][0], -spans[i][1] if nested else spans[i][1]))
    for at, row in enumerate(order):
        for lower in range(lane[row]):
            earlier = [spans[i] for i in order[:at] if lane[i] == lower]
            assert any(clash(span, spans[row], nested=nested) for span in earlier)


def test_threads_and_lanes_get_ids_of_their_own_and_names() -> None:
    pid, thread = np.array([1, 1, 1, 2]), np.array([70, 70, 9, 70])
    start, end = np.array([0, 5, 0, 0]), np.array([6, 9, 9, 9])
    place = tracks(pid, thread, "thread", start, end, nested=True, tid=thread)
    assert place.tid.tolist() == [70, 71, 9, 70]
    assert sorted(place.names) == [
        (1, 9, "thread 9"),
        (1, 70, "thread 70"),
        (1, 71, "thread 70 (2)"),
        (2, 70, "thread 70"),
    ]
    place = tracks(pid, thread, "stream", start, end, nested=False, after=4)
    assert place.tid.tolist() == [6, 7, 5, 5]
    assert (1, 7, "stream 70 (2)") in place.names


@pytest.mark.parametrize(
    ("ids", "shown"), [([5, 5, 9], [5, 5, 9]), ([0, 4], [1, 2]), ([2**31, 7], [2, 1]), ([-3, -3], [1, 1]), ([], [])]
)
def test_ids_that_fit_a_viewer_stay(ids: list[int], shown: list[int]) -> None:
    assert fitting(np.array(ids, np.int64)).tolist() == shown
