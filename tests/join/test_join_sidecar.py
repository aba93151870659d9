"""The run directory's table against the report: the same run, or a refusal."""

from collections.abc import Sequence

import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.sidecar import check_run
from dsocr_nvtx.schema.records import COST_FIELDS
from dsocr_nvtx.schema.tables import MEASURED, RANGES
from tests.builders.tables import RANGES_V1, Row, filled

CALLS: list[Row] = [
    {"event_id": number, "step": number // 2, "tokens": 1, "kv_len": 900 + number, "tensor_flops": 10 * number + 1}
    for number in range(6)
]


def check(report: Sequence[Row], recorded: Sequence[Row]) -> int:
    """Check a report's calls against a run's."""
    return check_run(filled(MEASURED, report), filled(RANGES, recorded), "run/ranges.arrow")


def test_the_same_calls_agree_in_any_order() -> None:
    assert check(CALLS, CALLS[::-1]) == 6


def test_a_capture_window_may_hold_fewer() -> None:
    assert check(CALLS[2:4], CALLS) == 2


def test_calls_without_a_cost_or_an_id_are_not_compared() -> None:
    # A capture that began late does not know a cost (zeros), or not even which call it was (negative id).
    unpriced = {**CALLS[3], "tensor_flops": 0, "kv_len": 0}
    unnamed = {"event_id": -4}
    assert check([CALLS[1], unpriced, unnamed], CALLS) == 1


def test_calls_that_the_run_did_not_record_are_another_runs() -> None:
    for recorded in (CALLS[:5], []):
        with pytest.raises(Refused, match="run did not record"):
            check(CALLS, recorded)
    with pytest.raises(Refused, match="run did not record"):
        check([{**CALLS[0], "event_id": 99}], CALLS)


@pytest.mark.parametrize("name", ["step", "batch", "tokens", "kv_len", *COST_FIELDS])
def test_a_number_that_differs_is_another_runs(name: str) -> None:
    other = [{**row, **({name: 77} if row["event_id"] == 4 else {})} for row in CALLS]
    with pytest.raises(Refused, match=f"run/ranges.arrow: its {name} differ"):
        check(CALLS, other)


def test_several_processes_have_several_run_directories() -> None:
    with pytest.raises(Refused, match="join without --run"):
        check([CALLS[0], {**CALLS[1], "pid": 2}], CALLS)


def test_inclusive_costs_of_version_1_are_the_same_run() -> None:
    """A container that cost 30 in all, 10 of them inside: 20 are its own, and what activations it kept for itself."""
    report = [
        {"event_id": 0, "tensor_flops": 20, "activation_bytes": 3},
        {"event_id": 1, "tensor_flops": 10, "activation_bytes": 8},
    ]
    recorded = [
        {"event_id": 0, "tensor_flops": 30, "activation_bytes": 9, "own_activation_bytes": 3},
        {"event_id": 1, "tensor_flops": 10, "activation_bytes": 8, "own_activation_bytes": 1, "parent_id": 0},
    ]
    assert check_run(filled(MEASURED, report), filled(RANGES_V1, recorded), "run/ranges.arrow") == 2
    recorded[0]["tensor_flops"] = 9
    with pytest.raises(Refused, match="cost more than"):
        check_run(filled(MEASURED, report), filled(RANGES_V1, recorded), "run/ranges.arrow")
