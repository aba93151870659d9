"""The survey's arithmetic with a device that takes exactly as long as it is told."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dsocr_nvtx.measure.gauge import Reading
from dsocr_nvtx.measure.subjects import Call, Series, Subject, centre
from dsocr_nvtx.measure.survey import Plan, best_rows, ceilings_columns, launch_rows, survey
from dsocr_nvtx.schema.gauges import CEILINGS
from dsocr_nvtx.schema.tables import conform


class FakeTimer:
    """A device whose call takes ``fast`` ns while rested and ``slow`` ns once it has run for a while."""

    def __init__(self) -> None:
        self.now = 0
        self.paused: list[float] = []

    def warm_up(self, call: Call) -> float:
        return float(str(call()))

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)
        self.now += round(seconds * 1e9)

    def time(self, call: Call, about_ns: float, seconds: float) -> Series:
        start, each = self.now, float(str(call()))
        count = 10
        spans = tuple(each if i < count // 2 or seconds < 1 else 2 * each for i in range(count))
        self.now += round(seconds * 1e9)
        return Series(ns=spans, start_ns=start, end_ns=self.now)


def subject(kernel: str, ns: float, quantity: str = "read", dtype: str | None = None, fails: bool = False) -> Subject:
    @contextmanager
    def make() -> Iterator[Call]:
        if fails:
            raise RuntimeError("no such kernel\nwith a long story")
        yield lambda: ns

    return Subject(quantity=quantity, kernel=kernel, work=1000.0, unit="B/s", make=make, dtype=dtype, bytes=10**6)


def test_every_subject_bursts_and_the_fastest_of_a_quantity_is_sustained() -> None:
    timer = FakeTimer()
    found = survey([subject("slow", 200.0), subject("fast", 100.0)], timer, Plan())
    assert [(row.subject.kernel, row.regime) for row in found.rows] == [
        ("slow", "burst"), ("fast", "burst"), ("fast", "sustained"),
    ]  # fmt: skip
    # 1000 B in 200, 100 and, warm, 200 ns.
    assert [row.median for row in found.rows] == pytest.approx([5e9, 1e10, 5e9])
    assert [row.is_roof for row in found.rows] == [False, True, False]
    assert timer.paused == [Plan().pause_s] * 3


def test_quantities_and_element_types_have_roofs_of_their_own() -> None:
    subjects = [subject(q, 10.0, q, d) for q, d in (("matmul", "bfloat16"), ("matmul", "float16"), ("copy", None))]
    found = survey(subjects, FakeTimer(), Plan.of(quick=True))
    assert sum(row.is_roof for row in found.rows) == 3
    assert len(best_rows(found.rows)) == 3


def test_what_fails_is_named_and_the_survey_goes_on() -> None:
    found = survey([subject("broken", 1.0, fails=True), subject("fine", 100.0)], FakeTimer(), Plan())
    assert found.missing == {"read 1 MB, broken": "RuntimeError: no such kernel"}
    assert {row.subject.kernel for row in found.rows} == {"fine"}


def test_sustained_is_the_later_half() -> None:
    series = Series(ns=(1.0, 1.0, 3.0, 3.0), start_ns=0, end_ns=100)
    assert series.later_half() == Series(ns=(3.0, 3.0), start_ns=50, end_ns=100)


def test_centre_is_the_median_and_half_the_distance_of_the_quartiles() -> None:
    assert centre([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 1.0)
    assert centre([7.0]) == (7.0, 0.0)


def test_launch_rows_are_times_and_the_hosts_rate_their_inverse() -> None:
    series = Series(ns=(2000.0, 2000.0), start_ns=0, end_ns=10)
    rows = {row.subject.quantity: row for row in launch_rows([("host_launch", series), ("replay_period", series)])}
    assert rows["host_launch"].median == 2000.0
    assert rows["host_launch_rate"].median == pytest.approx(500_000)
    assert set(rows) == {"host_launch", "host_launch_rate", "replay_period"}


def test_rows_carry_what_the_gauges_read_while_they_ran() -> None:
    timer = FakeTimer()
    found = survey([subject("fast", 100.0)], timer, Plan(burst_s=0.1, pause_s=0.1, sustained_s=2.0))
    # burst at 0.1 to 0.2 s; sustained at 0.3 to 2.3 s, its later half from 1.3 s on.
    readings = [
        Reading(time_ns=150_000_000, power_mw=300_000, sm_clock_mhz=1980, reasons=0),
        Reading(time_ns=400_000_000, power_mw=100_000, sm_clock_mhz=1000, reasons=1),
        Reading(time_ns=1_500_000_000, power_mw=690_000, sm_clock_mhz=1500, reasons=4),
        Reading(time_ns=2_000_000_000, power_mw=710_000, sm_clock_mhz=1700, reasons=4),
    ]
    burst, sustained = conform(ceilings_columns(found.rows, readings), CEILINGS).to_pylist()
    assert (burst["power_w"], burst["sm_clock_mhz"], burst["throttle"]) == (300.0, 1980.0, "")
    assert (sustained["power_w"], sustained["sm_clock_mhz"], sustained["throttle"]) == (700.0, 1600.0, "power_cap")
    assert burst["temperature_c"] is None
    assert sustained["seconds"] == pytest.approx(1.0)


def test_without_gauges_rows_stand_alone() -> None:
    found = survey([subject("fast", 100.0)], FakeTimer(), Plan())
    table = conform(ceilings_columns(found.rows, []), CEILINGS)
    assert table["power_w"].null_count == table["throttle"].null_count == 2
    assert len(conform(ceilings_columns([], []), CEILINGS)) == 0
