"""Each operation to the innermost range open when it was launched, or to the bucket that says why not."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.join.attribution import Attribution, Bucket, attribute, match_calls
from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.schema.tables import GRAPH_NODES, LAUNCHES, OPERATIONS
from tests.builders.tables import Row, filled
from tests.join import slow
from tests.join.slow import Span, nested
from tests.join.test_join_nesting import forest

BUCKETS = list(Bucket)


def attributed(
    spans: list[Span], launches: Sequence[Row], operations: Sequence[Row], nodes: Sequence[Row] = ()
) -> list[object]:
    """Return, per operation, the span that owns it, or its bucket's name."""
    ranges = forest(spans)
    found = attribute(filled(OPERATIONS, operations), filled(LAUNCHES, launches), filled(GRAPH_NODES, nodes), ranges)
    return named(spans, ranges, found)


def named(spans: list[Span], ranges: Forest, found: Attribution) -> list[object]:
    """Return owners as spans and the rest as bucket names."""
    answer: list[object] = []
    for place, code in zip(found.owner.tolist(), found.bucket.tolist(), strict=True):
        assert (place >= 0) == (BUCKETS[code] is Bucket.ATTRIBUTED)
        answer.append(spans[ranges.order[place]] if place >= 0 else str(BUCKETS[code]))
    return answer


OUTER, INNER, OTHER = Span(1, 1, 0, 100), Span(1, 1, 20, 60), Span(1, 2, 0, 100)
CALL = {"pid": 1, "tid": 1, "start_ns": 30, "end_ns": 32, "correlation_id": 7}
KERNEL = {"pid": 1, "correlation_id": 7, "start_ns": 500, "end_ns": 600}


def test_launch_time_decides_not_execution_time() -> None:
    # Launched at 30, inside INNER; it runs at 500, long after every range.
    assert attributed([OUTER, INNER], [CALL], [KERNEL]) == [INNER]
    assert attributed([OUTER, INNER], [{**CALL, "start_ns": 70}], [{**KERNEL, "start_ns": 25}]) == [OUTER]


@pytest.mark.parametrize(("time", "owner"), [(20, INNER), (60, INNER), (61, OUTER), (100, OUTER), (0, OUTER)])
def test_a_call_at_the_very_edge_of_a_range_is_inside(time: int, owner: Span) -> None:
    assert attributed([OUTER, INNER], [{**CALL, "start_ns": time}], [KERNEL]) == [owner]


def test_buckets_by_hand() -> None:
    assert attributed([OUTER], [{**CALL, "start_ns": 101}], [KERNEL]) == ["outside"]
    assert attributed([OUTER], [{**CALL, "tid": 9}], [KERNEL]) == ["other_thread"]
    assert attributed([OUTER], [{**CALL, "tid": 9, "start_ns": 101}], [KERNEL]) == ["outside"]
    assert attributed([OUTER], [{**CALL, "pid": 2}], [{**KERNEL, "pid": 2}]) == ["outside"], "another process's"
    assert attributed([OUTER], [], [KERNEL]) == ["no_runtime_record"]
    assert attributed([OUTER], [CALL], [{**KERNEL, "correlation_id": 8}]) == ["no_runtime_record"]
    assert attributed([OUTER], [CALL], [{**KERNEL, "correlation_id": None}]) == ["no_runtime_record"]
    assert attributed([], [CALL], [KERNEL]) == ["outside"]


def test_a_range_on_the_calling_thread_is_preferred_to_one_on_another() -> None:
    assert attributed([OUTER, OTHER], [CALL, {**CALL, "tid": 2, "correlation_id": 8}], [
        KERNEL, {**KERNEL, "correlation_id": 8},
    ]) == [OUTER, OTHER]  # fmt: skip


def test_equal_correlation_ids_of_two_processes_are_two_calls() -> None:
    theirs = Span(2, 1, 0, 100)
    calls = [{**CALL, "pid": 2}, CALL]
    assert attributed([OUTER, theirs], calls, [KERNEL, {**KERNEL, "pid": 2}]) == [OUTER, theirs]
    assert attributed([OUTER, theirs], calls[:1], [KERNEL]) == ["no_runtime_record"]


def test_of_several_calls_with_one_id_the_first_made_counts() -> None:
    # A driver call inside a runtime call repeats its correlation id.
    later = {**CALL, "start_ns": 70}
    for calls in ([CALL, later], [later, CALL]):
        assert attributed([OUTER, INNER], calls, [KERNEL]) == [INNER]


def test_a_replayed_node_that_the_trace_did_not_see_captured_is_named() -> None:
    nodes = [{"graph_node_id": 11}]
    seen, unseen = {**KERNEL, "graph_node_id": 11}, {**KERNEL, "graph_node_id": 12}
    outside = {**CALL, "start_ns": 200}
    assert attributed([OUTER], [outside], [seen, unseen], nodes) == ["outside", "graph_before_trace"]
    assert attributed([OUTER], [outside], [unseen]) == ["graph_before_trace"]
    assert attributed([OUTER], [], [unseen, seen], nodes) == ["graph_before_trace", "no_runtime_record"]


def test_one_call_may_launch_many_operations() -> None:
    assert attributed([OUTER], [CALL], [KERNEL] * 3) == [OUTER] * 3


calls_strategy = st.lists(
    st.fixed_dictionaries(
        {
            "pid": st.integers(1, 2), "tid": st.integers(1, 3), "start_ns": st.integers(-22, 22),
            "correlation_id": st.integers(0, 5),
        }
    ),
    max_size=10,
)  # fmt: skip
operations_strategy = st.lists(
    st.fixed_dictionaries(
        {
            "pid": st.integers(1, 2), "correlation_id": st.none() | st.integers(0, 6),
            "graph_node_id": st.none() | st.integers(1, 3),
        }
    ),
    max_size=10,
)  # fmt: skip


def obvious(spans: list[Span], calls: Sequence[Row], operation: Row, nodes: set[object]) -> set[object]:
    """Return every right answer for one operation; of calls made at one instant with one id, any may be its."""
    mine = [c for c in calls if (c["pid"], c["correlation_id"]) == (operation["pid"], operation["correlation_id"])]
    first = min((int(str(c["start_ns"])) for c in mine), default=None)
    answers: set[object] = set()
    for call in [c for c in mine if c["start_ns"] == first]:
        here = (int(str(call["pid"])), int(str(call["tid"])))
        assert first is not None
        around = slow.innermost(spans, here, first, closed=True)
        elsewhere = [s for s in spans if s.pid == here[0] and s.start <= first <= s.end]
        answers.add(around or ("other_thread" if elsewhere else "outside"))
    answers = answers or {"no_runtime_record"}
    unseen = operation["graph_node_id"] is not None and operation["graph_node_id"] not in nodes
    return {a if isinstance(a, Span) or not unseen else "graph_before_trace" for a in answers}


@given(nested(), calls_strategy, operations_strategy, st.sets(st.integers(1, 3)), st.randoms(use_true_random=False))
def test_every_operation_goes_where_a_loop_would_put_it(
    spans: list[Span], calls: list[Row], operations: list[Row], nodes: set[object], random: Random
) -> None:
    rows = [{"graph_node_id": node} for node in nodes]
    found = attributed(spans, calls, operations, rows)
    for operation, got in zip(operations, found, strict=True):
        assert got in obvious(spans, calls, operation, nodes)
    # Row order means nothing, where no two calls compete.
    keys = [(c["pid"], c["correlation_id"], c["start_ns"]) for c in calls]
    if len(keys) == len(set(keys)):
        order = list(range(len(operations)))
        random.shuffle(order)
        random.shuffle(calls)
        again = attributed(spans, calls, [operations[i] for i in order], rows)
        assert again == [found[i] for i in order]


def test_large_ids_do_not_meet() -> None:
    # Process ids take 24 bits, correlation ids 32: the largest of one must not reach the next.
    ids = [(1, 2**32 - 1), (2, 0), (2**24 - 1, 2**32 - 1), (0, 1)]
    rows = [{"pid": pid, "correlation_id": number} for pid, number in ids]
    calls, operations = filled(LAUNCHES, rows), filled(OPERATIONS, rows[::-1])
    assert match_calls(operations, calls).tolist() == [3, 2, 1, 0]
    assert match_calls(operations, calls.slice(0, 0)).tolist() == [-1] * 4
    assert match_calls(operations.slice(0, 0), calls).tolist() == []
    assert np.issubdtype(match_calls(operations, calls).dtype, np.integer)
