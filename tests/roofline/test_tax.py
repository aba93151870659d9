"""Tax kernels: the time they take in a row."""

from dsocr_nvtx.roofline.points import roofline
from dsocr_nvtx.roofline.tax import taxed
from dsocr_nvtx.schema.tables import KERNELS, MEASURED
from tests.builders.tables import Row, filled
from tests.roofline.test_roofline_least import ROUND
from tests.roofline.test_roofline_points import timed


def test_a_row_knows_the_time_of_its_tax_kernels() -> None:
    copy: Row = {"class": "data_movement", "rule": "copy"}
    product: Row = {"class": "matmul", "rule": "nvjet"}
    kernels: list[Row] = [
        {"event_id": 0, "busy_owned_ns": 30, **copy}, {"event_id": 0, "busy_owned_ns": 50, **product},
        {"event_id": 1, "busy_owned_ns": 7, **copy}, {"event_id": None, "busy_owned_ns": 1000, **copy},
    ]  # fmt: skip
    table = filled(KERNELS, kernels)
    assert taxed(table).tolist() == [True, False, True, True]
    rows = [timed(0, 80, layer=0), timed(1, 7, layer=1), timed(2, 9, layer=2)]
    found = roofline(table, filled(MEASURED, rows), ROUND)
    assert {row["layer"]: row["tax_ns"] for row in found.rows.to_pylist()} == {0: 30, 1: 7, 2: 0}
    assert found.stages["tax_ns"].to_pylist() == [37]  # what no call owns is no stage's tax


def test_a_table_without_kernels_has_no_tax() -> None:
    assert taxed(filled(KERNELS, [])).tolist() == []
