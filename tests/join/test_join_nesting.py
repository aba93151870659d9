"""Forests against loops: parents, innermost ranges, inclusive sums; in any row order."""

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.join.columns import Ints
from dsocr_nvtx.join.nesting import Forest
from tests.join import slow
from tests.join.slow import Span, nested


def column(values: list[int]) -> Ints:
    """Return an int64 array, empty ones included."""
    return np.array(values, np.int64)


def forest(spans: list[Span]) -> Forest:
    """Build a forest of rows in their order."""
    return Forest.build(*(column([getattr(s, name) for s in spans]) for name in ("pid", "tid", "start", "end")))


def test_a_forest_by_hand() -> None:
    #   0         10        20        30
    #   A--------------------
    #   .  B------  C-------.          D----
    #   .     E--.
    spans = [Span(1, 1, 0, 20), Span(1, 1, 3, 10), Span(1, 1, 12, 20), Span(1, 1, 30, 35), Span(1, 1, 6, 9)]
    found = forest(spans)
    assert found.order.tolist() == [0, 1, 4, 2, 3]  # A B E C D, by start
    assert found.parent.tolist() == [-1, 0, 1, 0, -1]
    assert found.depth.tolist() == [0, 1, 2, 1, 0]
    times = column([-1, 0, 3, 6, 9, 10, 11, 20, 21, 35])
    assert found.innermost((1, 1), times, closed=True).tolist() == [-1, 0, 1, 2, 2, 1, 0, 3, -1, 4]
    assert found.innermost((1, 1), times, closed=False).tolist() == [-1, 0, 1, 2, 1, 0, 0, -1, -1, -1]
    assert found.innermost((1, 2), times, closed=True).tolist() == [-1] * 10  # a thread without ranges
    assert found.upward(column([1, 10, 100, 1000, 5])).tolist() == [1111, 110, 100, 1000, 5]  # A: 1 + 10 + 100 + 1000


def test_a_forest_of_nothing() -> None:
    found = forest([])
    assert found.spans == {}
    assert not len(found.parent)
    assert found.upward(column([])).tolist() == []


@given(nested())
def test_parents_are_the_smallest_spans_around(spans: list[Span]) -> None:
    found = forest(spans)
    for place, row in enumerate(found.order):
        mine = found.parent[place]
        expected = slow.parent(spans, int(row))
        got = spans[found.order[mine]] if mine >= 0 else None
        assert got == expected
        assert found.depth[place] == (found.depth[mine] + 1 if mine >= 0 else 0)


@given(nested(), st.booleans())
def test_the_innermost_range_of_every_instant(spans: list[Span], closed: bool) -> None:
    found = forest(spans)
    times = column(list(range(-22, 23)))
    for thread in {s.thread for s in spans} | {(9, 9)}:
        got = found.innermost(thread, times, closed=closed)
        for time, place in zip(times.tolist(), got.tolist(), strict=True):
            assert (spans[found.order[place]] if place >= 0 else None) == slow.innermost(
                spans, thread, time, closed=closed
            )


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)).map(sorted), max_size=12), st.booleans())
def test_the_innermost_of_ranges_that_cross_is_the_last_begun(spans: list[list[int]], closed: bool) -> None:
    # A range that was never closed can cross its neighbours; an instant must still find the last one begun.
    crossing = [Span(1, 1, start, end) for start, end in spans]
    found = forest(crossing)
    times = column(list(range(-1, 17)))
    got = found.innermost((1, 1), times, closed=closed).tolist()
    expected = [slow.innermost(crossing, (1, 1), time, closed=closed) for time in times.tolist()]
    assert [crossing[found.order[place]] if place >= 0 else None for place in got] == expected


@given(nested(), st.data())
def test_inclusive_sums_are_those_of_everything_inside(spans: list[Span], data: st.DataObject) -> None:
    found = forest(spans)
    values = column(data.draw(st.lists(st.integers(0, 100), min_size=len(spans), max_size=len(spans))))
    total = values.copy()
    for place in range(len(spans)):
        above = found.parent[place]
        while above >= 0:
            total[above] += values[place]
            above = found.parent[above]
    assert found.upward(values).tolist() == total.tolist()


@given(nested(), st.randoms(use_true_random=False))
def test_row_order_means_nothing(spans: list[Span], random: Random) -> None:
    other = spans.copy()
    random.shuffle(other)
    one, two = forest(spans), forest(other)
    assert (one.start.tolist(), one.end.tolist()) == (two.start.tolist(), two.end.tolist())
    assert one.parent.tolist() == two.parent.tolist()
    assert one.spans == two.spans


def test_a_hundred_thousand_ranges_in_deep_and_wide_nests_take_few_rounds() -> None:
    # 50 000 siblings inside one range, and 500 deep: neither may turn a search into a walk per row.
    count = 50_000
    wide = [(0, 10 * count), *((10 * i, 10 * i + 9) for i in range(count))]
    deep = [(i - 1000, 20 * count - i) for i in range(500)]
    start, end = (column(list(values)) for values in zip(*deep, *wide, strict=True))
    one = np.ones(len(start), np.int64)
    found = Forest.build(one, one, start, end)
    assert int(found.depth.max()) == 501  # 500 deep, the wide one, its siblings
    places = found.innermost((1, 1), column([10 * i + 9 for i in range(count)]), closed=False)
    assert set(places.tolist()) == {500}


def test_chains_of_thousands_are_climbed_in_leaps() -> None:
    """Interval k of 5,000 lasts from k to 20,000 - k: at 20,000 - k, k is still open where ends count."""
    count = 5000
    found = forest([Span(1, 1, k, 4 * count - k) for k in range(count)])
    assert found.depth.tolist() == list(range(count))
    times = column([4 * count - k for k in range(count)])
    assert found.innermost((1, 1), times, closed=True).tolist() == list(range(count))
    assert found.innermost((1, 1), times, closed=False).tolist() == list(range(-1, count - 1))
    assert found.upward(column([1] * count)).tolist() == list(range(count, 0, -1))
