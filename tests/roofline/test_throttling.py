"""Which rows ran while the clocks were held down."""

import pyarrow as pa
import pytest

from dsocr_nvtx.roofline.throttling import throttled
from dsocr_nvtx.schema.gauges import POWER
from dsocr_nvtx.schema.tables import MEASURED
from tests.builders.tables import RANGES_V1, Row, filled
from tests.roofline.test_roofline_points import points, timed


def power(*samples: tuple[int, str | None]) -> pa.Table:
    """Return samples of a run, 10 ns apart or as given."""
    return filled(POWER, [{"time_ns": time, "throttle": reasons} for time, reasons in samples])


def flags(samples: pa.Table, *spans: tuple[int, int]) -> tuple[dict[int, str | None], str | None]:
    """Return what the rows of one call each, with these host times, and their stage are flagged with."""
    rows = [timed(event, 5, layer=event) for event in range(len(spans))]
    recorded: list[Row] = [
        {"event_id": event, "host_start_ns": start, "host_end_ns": end} for event, (start, end) in enumerate(spans)
    ]
    found = throttled(points(rows), filled(MEASURED, rows), filled(RANGES_V1, recorded), samples)
    return {row["layer"]: row["throttle"] for row in found.rows.to_pylist()}, found.stages["throttle"][0].as_py()


def test_a_reason_holds_from_its_sample_to_the_next() -> None:
    samples = power((0, ""), (10, "power_cap"), (20, ""), (30, "thermal+power_cap"), (40, ""))
    rows, stage = flags(samples, (1, 9), (12, 13), (5, 15), (21, 29), (35, 39), (0, 40))
    assert rows == {0: "", 1: "power_cap", 2: "power_cap", 3: "", 4: "power_cap+thermal", 5: "power_cap+thermal"}
    assert stage == "power_cap+thermal"


def test_what_was_not_sampled_is_not_called_free_of_throttling() -> None:
    rows, stage = flags(power((10, ""), (20, "")), (12, 18), (18, 25), (1, 12))
    assert rows == {0: "", 1: None, 2: None}
    assert stage is None


@pytest.mark.parametrize("samples", [power(), power((5, None), (9, None))])
def test_no_samples_no_flags(samples: pa.Table) -> None:
    rows, stage = flags(samples, (1, 2))
    assert (rows, stage) == ({0: None}, None)
