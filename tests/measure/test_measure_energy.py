"""Energy by hand: a counter that moves in steps, spans between its readings, and what it cannot resolve."""

import pytest

from dsocr_nvtx.measure.energy import Span, StageTime, counter_at, counter_step, stage_energy
from dsocr_nvtx.measure.gauge import Reading
from dsocr_nvtx.schema.gauges import ENERGY

SECOND = 10**9
STEADY = [Reading(time_ns=i * SECOND // 10, energy_mj=50_000 * i, power_mw=500_000, reasons=0) for i in range(101)]
"""Ten seconds at 500 W, read every 0.1 s: 50 J a step."""


def stage(*spans: tuple[float, float], tokens: int = 100) -> StageTime:
    """Return a stage that ran in these seconds."""
    found = tuple(Span(start_ns=round(a * SECOND), end_ns=round(b * SECOND)) for a, b in spans)
    return StageTime(stage="decode", source="repeated", spans=found, tokens=tokens)


def test_energy_is_what_the_counter_gained() -> None:
    row = stage_energy(stage((1.0, 4.0)), STEADY)
    assert set(row) == set(ENERGY.names)
    assert row["joules"] == pytest.approx(1500)
    assert row["tokens_per_joule"] == pytest.approx(100 / 1500)
    # A step of 50 J at either end, in quadrature.
    assert row["uncertainty_j"] == pytest.approx(50 * 2**0.5)
    assert (row["power_w"], row["throttle"], row["verdict"]) == (500.0, "", "resolved")


def test_spans_add_and_so_do_their_doubts() -> None:
    row = stage_energy(stage((1.0, 3.0), (5.0, 7.0)), STEADY)
    assert row["joules"] == pytest.approx(2000)
    assert row["uncertainty_j"] == pytest.approx(50 * 2)


def test_between_two_readings_the_counter_is_taken_in_proportion() -> None:
    assert counter_at(STEADY, SECOND // 20) == pytest.approx(25)
    assert counter_at(STEADY, 0) == 0.0
    assert counter_at(STEADY, 10 * SECOND) == 5000.0
    assert counter_at(STEADY, 11 * SECOND) is None
    assert counter_at(STEADY, -1) is None
    assert counter_at([], 5) is None


def test_readings_within_a_step_do_not_make_the_step_smaller() -> None:
    stairs = [Reading(time_ns=i, energy_mj=i // 5 * 40_000) for i in range(50)]
    assert counter_step(stairs) == 40.0
    assert counter_step(stairs[:3]) is None


@pytest.mark.parametrize(
    ("found", "readings", "reason"),
    [
        (stage((1.0, 2.5)), STEADY, "1.50 s of the 2 s"),
        (stage((9.0, 12.0)), STEADY, "no energy counter"),
        (stage((1.0, 4.0)), [], "no energy counter"),
        (stage((1.0, 4.0)), [Reading(time_ns=i * SECOND) for i in range(9)], "no energy counter"),
        (stage((1.0, 4.0)), [Reading(time_ns=i * SECOND, energy_mj=7) for i in range(9)], "did not move"),
        (stage(*[(i * 0.3, i * 0.3 + 0.2) for i in range(11)]), STEADY, "in doubt of"),
    ],
)
def test_what_the_counter_cannot_resolve_says_so(found: StageTime, readings: list[Reading], reason: str) -> None:
    if "in doubt" in reason:
        readings = [r for r in readings if r.time_ns % SECOND == 0]
    row = stage_energy(found, readings)
    assert row["joules"] is row["uncertainty_j"] is row["tokens_per_joule"] is None
    assert str(row["verdict"]).startswith("unresolved: ")
    assert reason in str(row["verdict"])


def test_throttling_inside_a_stage_is_on_its_row_and_outside_is_not() -> None:
    hot = [Reading(time_ns=r.time_ns, energy_mj=r.energy_mj, reasons=4 if 20 <= i <= 30 else 0)
           for i, r in enumerate(STEADY)]  # fmt: skip
    assert stage_energy(stage((1.0, 4.0)), hot)["throttle"] == "power_cap"
    assert stage_energy(stage((5.0, 8.0)), hot)["throttle"] == ""
