"""Least times by hand on roofs of round numbers, and what binds a row."""

from collections.abc import Mapping

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.roofline.least import MOVED, LeastTimes, least_times
from dsocr_nvtx.schema.hardware import Ceilings
from dsocr_nvtx.schema.records import COST_FIELDS

ROUND = Ceilings(
    device="round", tensor={"bfloat16": 1000 * 10**9, "float32": 100 * 10**9}, vector=10 * 10**9, bandwidth=10**9,
    l2_bytes=500, tensor_clock_hz=10**9, max_clock_hz=10**9, source="by hand",
)  # fmt: skip
"""1000 FLOP/ns at bf16, 100 at fp32, 10 of vector units, 1 B/ns from DRAM, an L2 of 500 B."""


def least(*costs: Mapping[str, int], dtypes: tuple[str, ...] = (), roofs: Ceilings = ROUND) -> LeastTimes:
    """Return the least times of calls with these costs."""
    own = {name: np.array([cost.get(name, 0) for cost in costs], np.int64) for name in COST_FIELDS}
    words = ["bfloat16", "float32", "float8_e4m3fn"]
    codes = np.array([words.index(dtype) for dtype in dtypes or ["bfloat16"] * len(costs)], np.int64)
    return least_times(own, (codes, words), roofs)


def test_each_roof_by_hand() -> None:
    found = least({"tensor_flops": 50_000}, {"vector_flops": 700}, {"weight_bytes": 900}, {})
    assert found.tensor.tolist() == [50.0, 0.0, 0.0, 0.0]  # 50 000 / 1000
    assert found.vector.tolist() == [0.0, 70.0, 0.0, 0.0]  # 700 / 10
    assert found.memory.tolist() == [0.0, 0.0, 900.0, 0.0]  # 900 / 1
    assert found.roofline.tolist() == [50.0, 70.0, 900.0, 0.0]


def test_the_least_time_is_the_highest_of_the_three() -> None:
    found = least({"tensor_flops": 50_000, "vector_flops": 700, "weight_bytes": 60})
    assert found.compute.tolist() == [70.0]
    assert found.roofline.tolist() == [70.0]


def test_each_element_type_has_its_own_roof() -> None:
    found = least({"tensor_flops": 1000}, {"tensor_flops": 1000}, dtypes=("bfloat16", "float32"))
    assert found.tensor.tolist() == [1.0, 10.0]


def test_an_element_type_without_a_roof_is_refused_only_where_it_is_needed() -> None:
    assert least({"vector_flops": 10}, dtypes=("float8_e4m3fn",)).roofline.tolist() == [1.0]
    with pytest.raises(Refused, match=r"round: no matrix rate for float8_e4m3fn; pass --ceilings FILE"):
        least({"tensor_flops": 1}, dtypes=("float8_e4m3fn",))


def test_activations_that_fit_the_l2_are_no_dram_traffic_but_weights_and_the_cache_are() -> None:
    found = least(
        {"activation_bytes": 500},
        {"activation_bytes": 501},
        {"activation_bytes": 800, "weight_bytes": 100, "kv_read_bytes": 20, "kv_write_bytes": 3},
        {"op_bytes": 10**9},  # what an implementation moves is no lower bound
    )
    assert found.memory.tolist() == [0.0, 1.0, 423.0, 0.0]  # 800 - 500 + 100 + 20 + 3


def test_with_a_known_l2_rate_all_bytes_are_held_against_it() -> None:
    roofs = evolve(ROUND, l2_bandwidth=4 * 10**9)
    found = least({"activation_bytes": 400}, {"activation_bytes": 400, "weight_bytes": 600}, roofs=roofs)
    assert found.memory.tolist() == [100.0, 600.0]  # 400 / 4; max(600 / 1, 1000 / 4)


def test_unmasked_flops_and_own_activations_bind_nothing() -> None:
    assert set(MOVED) == {"weight_bytes", "activation_bytes", "kv_read_bytes", "kv_write_bytes"}
    assert least({"tensor_flops_unmasked": 10**12}).roofline.tolist() == [0.0]


costs = st.fixed_dictionaries({name: st.integers(0, 10**6) for name in COST_FIELDS})


@given(costs, costs)
def test_more_work_never_takes_less_time(one: dict[str, int], more: dict[str, int]) -> None:
    both = {name: one[name] + more[name] for name in one}
    found = least(one, both)
    for times in (found.tensor, found.vector, found.memory, found.roofline):
        assert times[0] <= times[1]


def test_a_call_is_at_the_roof_that_takes_it_longest() -> None:
    roofs = evolve(ROUND, l2_bandwidth=4 * 10**9)
    found = least(
        {"tensor_flops": 50_000, "weight_bytes": 49},  # 50 by matrices, 49 from DRAM
        {"tensor_flops": 50_000, "weight_bytes": 51},
        {"activation_bytes": 400, "weight_bytes": 99},  # 99 from DRAM, 499 / 4 = 124.75 from the L2
        {"tensor_flops": 50_000, "weight_bytes": 50},  # at the ridge
        {},
        roofs=roofs,
    ).at_roofs()
    assert {name: times.tolist() for name, times in found.items()} == {
        "compute": [50.0, 0.0, 0.0, 50.0, 0.0],
        "memory": [0.0, 51.0, 0.0, 0.0, 0.0],
        "l2": [0.0, 0.0, 124.75, 0.0, 0.0],
    }


@given(st.lists(costs, min_size=1, max_size=5))
def test_each_call_is_at_one_roof_and_none_is_lost(many: list[dict[str, int]]) -> None:
    found = least(*many, roofs=evolve(ROUND, l2_bandwidth=2 * 10**9))
    assert np.sum(list(found.at_roofs().values()), axis=0).tolist() == found.roofline.tolist()
