"""What binds a row: by hand, and never against the time budget that stands beside it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.roofline.bounds import BOUNDS, ROOF_BOUNDS, THRESHOLD, bound_of, firm_bound_of
from dsocr_nvtx.roofline.budget import IDLE_CAUSES, row_budget

TIMES = ("busy_owned_ns", "idle_owned_ns", "idle_queued_ns", "tax_ns", "small_ns")


def bound(
    busy: int, idle: int = 0, queued: int = 0, tax: int = 0, small: int = 0, at: tuple[float, ...] = (0.0, 0.0, 0.0)
) -> str | None:
    """Return what binds one row; ``at`` are the least times of its calls at each roof."""
    values = zip(TIMES, (busy, idle, queued, tax, small), strict=True)
    sums = {name: np.array([value]) for name, value in zip(ROOF_BOUNDS, at, strict=True)}
    floor = np.rint(np.sum(list(sums.values()), axis=0)).astype(np.int64)
    (code,) = bound_of({name: np.array([value]) for name, value in values}, floor, sums)
    return BOUNDS[code] if code >= 0 else None


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"busy": 0}, None),
        ({"busy": 0, "at": (5.0, 0.0, 0.0)}, None),  # took no device time
        ({"busy": 0, "idle": 1}, "host"),
        ({"busy": 100, "idle": 101, "at": (99.0, 0.0, 0.0)}, "host"),
        ({"busy": 100, "idle": 99, "at": (99.0, 0.0, 0.0)}, "compute"),  # equal is not more
        ({"busy": 100, "idle": 50, "tax": 40, "at": (0.0, 30.0, 0.0)}, "host"),  # 50 idle of 150, 40 tax, 30 + 30
        ({"busy": 100, "idle": 101, "queued": 50}, "host"),
        ({"busy": 100, "idle": 101, "queued": 51}, "queued"),
    ],
)
def test_idle_time_binds_where_it_is_the_largest_part(row: dict[str, Any], name: str | None) -> None:
    assert bound(**row) == name


@pytest.mark.parametrize(
    ("at", "name"),
    [
        ((60.0, 0.0, 0.0), "compute"),  # exactly 60 %
        ((0.0, 60.0, 0.0), "memory"),
        ((0.0, 0.0, 60.0), "l2"),
        ((0.0, 59.4, 0.0), "inefficient"),
        ((40.0, 38.0, 0.0), "compute"),  # 78 % at roofs of its calls, though no roof alone has 60 %
        ((38.0, 40.0, 10.0), "memory"),
        ((35.0, 35.0, 0.0), "compute"),
        ((130.0, 0.0, 0.0), "compute"),  # above its roof: kept, not clipped
    ],
)
def test_a_row_of_calls_that_are_each_at_a_roof_is_at_the_roof(at: tuple[float, ...], name: str) -> None:
    assert THRESHOLD == 0.6
    assert bound(busy=100, at=at) == name


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"tax": 51}, "unfused"),
        ({"tax": 50}, "inefficient"),  # as much is lost by the others
        ({"tax": 50, "small": 26}, "small"),  # 26 of 50 that is no tax
        ({"tax": 50, "small": 25}, "inefficient"),
        ({"tax": 40, "at": (30.0, 0.0, 0.0)}, "unfused"),  # 30 at the roof, 40 tax, 30 inefficient
        ({"tax": 90, "at": (30.0, 0.0, 0.0)}, "unfused"),  # tax beyond the 30 that the roof needs: 70
        ({"tax": 30, "at": (50.0, 0.0, 0.0)}, "unfused"),  # the roof's 50 are the largest part, but below 60 %
        ({"small": 100}, "small"),
        ({"small": 100, "at": (45.0, 0.0, 0.0)}, "small"),
        ({"tax": 100}, "unfused"),
    ],
)
def test_what_is_busy_below_its_roofs_is_named_by_the_larger_loss(row: dict[str, Any], name: str) -> None:
    assert bound(busy=100, **row) == name


small = st.integers(0, 100)


@given(small, st.lists(small, min_size=5, max_size=5), small, small, st.tuples(small, small, small))
def test_the_verdict_names_the_largest_part_of_the_budget(
    busy: int, idle: list[int], tax: int, tiny: int, roofs: tuple[int, ...]
) -> None:
    causes = {f"idle_{cause}_ns": ns for cause, ns in zip(IDLE_CAUSES, idle, strict=True)}
    tax, tiny, floor = min(tax, busy), min(tiny, busy - min(tax, busy)), sum(roofs)
    name = bound(busy, sum(idle), causes["idle_queued_ns"], tax, tiny, tuple(map(float, roofs)))
    parts = row_budget({"busy_owned_ns": busy, "tax_ns": tax, "roofline_ns": floor, **causes})
    waited = sum(ns for part, ns in parts.items() if part.startswith("idle"))
    largest = max(waited, parts["roofline"], parts["tax"], parts["inefficiency"])
    if name is None:
        assert largest == 0
    elif name in ("host", "queued"):
        assert waited == largest
        assert (name == "queued") == (2 * parts["idle_queued"] > waited)
    elif name in ROOF_BOUNDS:
        assert parts["roofline"] == largest
        assert roofs[ROOF_BOUNDS.index(name)] == max(roofs)
    else:
        assert parts["tax" if name == "unfused" else "inefficiency"] == max(parts["tax"], parts["inefficiency"])
        assert 10 * parts["roofline"] < 6 * busy


SMALL = st.integers(0, 12)


@given(SMALL, SMALL, SMALL, SMALL, st.tuples(SMALL, SMALL, SMALL), SMALL)
def test_a_verdict_stands_where_no_cost_of_the_uncertain_time_would_turn_it(
    busy: int, idle: int, queued: int, tax: int, at: tuple[int, int, int], uncertain: int
) -> None:
    """Against every cost that the uncertain time can have: so much of it at a roof, the rest lost."""
    uncertain, tax, queued = min(uncertain, busy), min(tax, busy), min(queued, idle)
    row = dict(zip(TIMES, (busy, idle, queued, tax, 0), strict=True))
    every = {
        bound(busy, idle, queued, tax, at=tuple(float(at[n] + more * (n == roof)) for n in range(3)))
        for more in range(uncertain + 1)
        for roof in range(3)
    }
    sums = {name: np.array([float(value)]) for name, value in zip(ROOF_BOUNDS, at, strict=True)}
    (code,) = firm_bound_of({name: np.array([value]) for name, value in row.items()}, sums, np.array([uncertain]))
    assert (BOUNDS[code] if code >= 0 else None) == (every.pop() if len(every) == 1 else None)


def test_one_call_in_a_hundred_of_unknown_cost_turns_no_verdict() -> None:
    time = {name: np.array([value]) for name, value in zip(TIMES, (1000, 0, 0, 0, 0), strict=True)}
    for share, name in ((10, "memory"), (700, None)):
        sums = {roof: np.array([float(900 - share) * (roof == "memory")]) for roof in ROOF_BOUNDS}
        (code,) = firm_bound_of(time, sums, np.array([share]))
        assert (BOUNDS[code] if code >= 0 else None) == name
