"""What is worked out in blocks of rows is the same in blocks of a few: every seam is met."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.ingest import announcements
from dsocr_nvtx.join import columns
from dsocr_nvtx.join.columns import falling, sorting
from tests.join.test_join_attribution import (  # noqa: F401 - tests, to be run here too
    test_buckets_by_hand,
    test_every_operation_goes_where_a_loop_would_put_it,
)
from tests.join.test_join_columns import test_rows_are_found_by_process_and_number  # noqa: F401
from tests.join.test_join_costs import (  # noqa: F401
    test_announcements_say_what_payloads_say,
    test_the_latest_entry_of_a_key,
)
from tests.join.test_join_engine import (  # noqa: F401
    test_a_trace_by_hand,
    test_nothing_is_lost_and_nothing_counted_twice,
    test_row_order_means_nothing,
    test_the_accounting_by_hand,
    test_two_devices_are_two_walls,
    test_what_is_not_attributed_is_counted,
)
from tests.join.test_join_nesting import (  # noqa: F401
    column,
    test_parents_are_the_smallest_spans_around,
    test_the_innermost_range_of_every_instant,
)
from tests.join.test_join_ownership import (  # noqa: F401
    test_busy_time_is_owned_by_the_first_started,
    test_gaps_are_what_no_operation_covers,
    test_idle_time_is_divided_by_what_the_next_launcher_did_at_each_instant,
    test_unions_by_group,
)


@pytest.fixture(autouse=True, scope="module")
def few_rows_at_a_time() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_BLOCK", 2)
        patch.setattr(announcements, "_TOGETHER", 2)
        yield


SMALL = st.integers(0, 2)


@given(st.lists(st.tuples(SMALL, SMALL, SMALL), max_size=9))
def test_rows_are_put_in_order(rows: list[tuple[int, int, int]]) -> None:
    first, second, third = (column([row[at] for row in rows]) for at in range(3))
    order = sorting(first, falling(second), third)
    expected = sorted(range(len(rows)), key=lambda at: (rows[at][0], -rows[at][1], rows[at][2]))
    assert column(list(range(len(rows))))[order].tolist() == expected
    assert isinstance(order, slice) == (expected == sorted(expected))
