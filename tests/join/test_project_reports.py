"""Projection of reports with something odd in them: as nsys projects them, or refused with what is missing."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from dsocr_nvtx.cli.project import project_report
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.files import read_table
from tests.builders.nsys import NsysFile, global_id

Row = tuple[object, ...]


def projected(path: Path) -> list[Row]:
    """Return name, pid, duration, projected start and duration, and operations of each row of a projection."""
    out = path.with_suffix(".arrow")
    project_report(path, out, as_nsys=True)
    names = ("name", "pid", "duration_ns", "projected_start_ns", "projected_duration_ns", "gpu_ops")
    return [tuple(row[name] for name in names) for row in read_table(out).to_pylist()]


def one_launch() -> NsysFile:
    """A range of 100 ns with one kernel, from 200 to 230."""
    file = NsysFile()
    file.push_pop("a", 0, 100, domain=0)
    file.launch("gemm", 10, 200, 230)
    return file


def test_an_unclosed_range_ends_with_the_last_of_all_ranges_also_of_those_that_end_on_another_thread(
    tmp_path: Path,
) -> None:
    file = one_launch()
    file.push_pop("outer", -5, None, domain=0)
    file.push_pop("elsewhere", 0, 5000, domain=0)
    file.rows["NVTX_EVENTS"][-1] |= {"eventType": 60, "endGlobalTid": global_id(1, 9)}
    file.launch("late", 4000, 4100, 4200)
    assert projected(file.write(tmp_path / "r.sqlite")) == [
        (":outer", 1, 5005, 200, 4000, 2),
        (":a", 1, 100, 200, 30, 1),
    ]


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_of_a_domain_that_was_created_twice_the_first_one_names_it(tmp_path: Path, order: tuple[str, str]) -> None:
    file = NsysFile()
    for name in order:
        file.add(
            "NVTX_EVENTS", start=10 if name == "first" else 50, eventType=75, globalTid=global_id(1, 1),
            textId=file.text(name), domainId=3,
        )  # fmt: skip
    file.push_pop("a", 60, 100, domain=3)
    file.launch("gemm", 70, 200, 230)
    assert projected(file.write(tmp_path / "r.sqlite")) == [("first:a", 1, 40, 200, 30, 1)]


def test_a_kernel_of_less_than_no_time_is_projected_as_nsys_does(tmp_path: Path) -> None:
    file = one_launch()
    file.launch("odd", 20, 300, 299)
    assert projected(file.write(tmp_path / "r.sqlite")) == [(":a", 1, 100, 200, 99, 2)]


def test_a_call_that_returns_before_it_is_made_is_set_apart_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = one_launch()
    file.launch("odd", 20, 300, 310, took=-15)
    assert projected(file.write(tmp_path / "r.sqlite")) == [(":a", 1, 100, 200, 30, 1)]
    assert "1 CUDA call: ends before it begins" in capsys.readouterr().err


def test_processes_of_two_machines_are_two_and_each_is_shown_by_its_own_number(tmp_path: Path) -> None:
    file = one_launch()
    other = (3 << 56) | (1 << 48) | (1 << 24)
    file.add("NVTX_EVENTS", start=0, end=100, eventType=59, globalTid=other | 1, text="b", domainId=0)
    file.call("cudaLaunchKernel_v7000", 10, 12, correlation=1)
    file.rows["CUPTI_ACTIVITY_KIND_RUNTIME"][-1]["globalTid"] = other | 1
    file.kernel("gemm", 500, 600, correlation=1)
    file.rows["CUPTI_ACTIVITY_KIND_KERNEL"][-1]["globalPid"] = other
    found = sorted(projected(file.write(tmp_path / "r.sqlite")), key=str)
    assert found == [(":a", 1, 100, 200, 30, 1), (":b", 1, 100, 500, 100, 1)]


def _renamed(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE NVTX_EVENTS RENAME TO NVTX_EVENTS_V2")


def _behind_a_view(connection: sqlite3.Connection) -> None:
    _renamed(connection)
    connection.execute("CREATE VIEW NVTX_EVENTS AS SELECT * FROM NVTX_EVENTS_V2")


def _without(*tables: str) -> Callable[[sqlite3.Connection], None]:
    def act(connection: sqlite3.Connection) -> None:
        for table in tables:
            connection.execute(f"DROP TABLE {table}")

    return act


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (_renamed, "no table NVTX_EVENTS, but NVTX_EVENTS_V2"),
        (_behind_a_view, "NVTX_EVENTS is a view"),
        (_without("NVTX_EVENTS"), "no NVTX range"),
        (_without("CUPTI_ACTIVITY_KIND_KERNEL"), "no work of a GPU"),
        (_without("CUPTI_ACTIVITY_KIND_RUNTIME"), "no CUDA call"),
    ],
)
def test_what_is_missing_is_said_and_no_empty_answer_written(
    tmp_path: Path, act: Callable[[sqlite3.Connection], None], says: str
) -> None:
    path = one_launch().write(tmp_path / "r.sqlite")
    with sqlite3.connect(path) as connection:
        act(connection)
    connection.close()
    with pytest.raises(Refused, match=says):
        project_report(path, tmp_path / "out.csv", as_nsys=True)
    assert not (tmp_path / "out.csv").exists()


def test_tables_in_lower_case_are_read_like_any_other(tmp_path: Path) -> None:
    path = one_launch().write(tmp_path / "r.sqlite")
    with sqlite3.connect(path) as connection:
        for table in ("NVTX_EVENTS", "CUPTI_ACTIVITY_KIND_KERNEL", "StringIds"):
            connection.execute(f"ALTER TABLE {table} RENAME TO x")
            connection.execute(f"ALTER TABLE x RENAME TO {table.lower()}")
    connection.close()
    assert projected(path) == [(":a", 1, 100, 200, 30, 1)]
