"""The join of many reports: exact, restartable, and no report costs another."""

import json
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from attrs import evolve

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.fleet.crew import Crew, local_crew
from dsocr_nvtx.fleet.engine import Fleet, FleetOptions, join_fleet, plan_fleet
from dsocr_nvtx.fleet.inputs import inputs_of
from dsocr_nvtx.fleet.state import Folders, read_state
from dsocr_nvtx.roofline.joined import joined_report
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.seal import sealed
from tests.fleet.reports import write_report


def one_thread() -> Crew:
    def start() -> Executor:
        return ThreadPoolExecutor(1)

    return Crew(start, 2)


def idle() -> Crew:
    raise AssertionError("a crew was started where nothing is to do")


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Write four ranks, of which the last has twice the steps."""
    folder = tmp_path / "reports"
    folder.mkdir()
    for rank in range(4):
        write_report(folder / f"rank-{rank}.sqlite", rank, steps=4 if rank == 3 else 2)
    return folder


Joins = Callable[..., Fleet]


@pytest.fixture
def joins(reports: Path, tmp_path: Path) -> Joins:
    """Join every report of the folder, in this process unless told."""

    def run(crew: Callable[[], Crew] = one_thread, options: FleetOptions | None = None, out: str = "out") -> Fleet:
        options = options or FleetOptions()
        return join_fleet(plan_fleet(inputs_of([reports / "*.*"]), tmp_path / out, options), crew, options)

    return run


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return time and content of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_merged_tables_are_the_sums_of_the_reports_own(joins: Joins, reports: Path) -> None:
    found = joins()
    single = [joined_report(path).judge() for path in sorted(reports.iterdir())]
    for merged, own in ((found.roofline, [s.rows for s in single]), (found.stages, [s.stages for s in single])):
        for name in (
            "calls",
            "tensor_flops",
            "weight_bytes",
            "launches",
            "kernel_ns",
            "wall_ns",
            "roofline_ns",
            "lost_ns",
        ):
            assert pc.sum(merged[name]).as_py() == sum(pc.sum(table[name]).as_py() for table in own)
    assert read_table(found.out / "roofline.arrow").equals(found.roofline)
    marker = json.loads((found.out / "fleet.json").read_text())
    assert (marker["complete"], marker["reports"], marker["failed"]) == (True, 4, 0)
    assert marker["totals"]["stages"]["launches"] == 10


def test_partitions_hold_what_a_single_join_writes(joins: Joins, reports: Path) -> None:
    found = joins()
    own = joined_report(reports / "rank-3.sqlite")
    part = pq.read_table(Folders(found.out).part("kernels", "rank-3"), partitioning=None)
    assert part.to_pylist() == own.joined.kernels.to_pylist()
    assert set(part["rank"].to_pylist()) == {3}
    assert b"sha256" in part.schema.metadata


def test_the_slowest_rank_is_named_with_its_cause(joins: Joins) -> None:
    found = joins()
    (stage,) = found.stages.to_pylist()
    assert (stage["slowest_rank"], stage["slowest_report"], stage["ranks"], stage["steps"]) == (3, "rank-3", 4, 10)
    assert stage["imbalance"] > 1.5
    assert stage["slowest_cause"] == "work"
    slowest = found.ranks.to_pylist()[0]
    assert (slowest["rank"], slowest["cause"], slowest["world_size"], slowest["host"]) == (3, "work", 8, "node-1")
    assert slowest["gpu_uuid"] == "GPU-uuid-3"


def test_processes_find_what_threads_find(joins: Joins) -> None:
    alone, spread = joins(), joins(lambda: local_crew(2), out="spread")
    assert spread.roofline.drop_columns([]).to_pylist() == alone.roofline.to_pylist()
    assert spread.ranks.to_pylist() == alone.ranks.to_pylist()


def test_a_second_call_does_no_work(joins: Joins) -> None:
    first = joins()
    before = contents(first.out)
    again = joins(idle)
    assert contents(first.out) == before
    assert (again.joined, again.unchanged) == (0, True)
    assert again.roofline.to_pylist() == first.roofline.to_pylist()


def test_a_touched_report_is_the_same_report(joins: Joins, reports: Path) -> None:
    joins()
    os.utime(reports / "rank-0.sqlite", (1, 1))
    assert joins(idle).joined == 0
    assert joins(idle).joined == 0


def test_only_what_changed_is_joined_again(joins: Joins, reports: Path) -> None:
    joins()
    write_report(reports / "rank-1.sqlite", 1, steps=7)
    write_report(reports / "rank-4.sqlite", 4)
    found = joins()
    assert found.joined == 2
    assert found.stages["steps"].to_pylist() == [2 + 7 + 2 + 4 + 2]


def test_a_report_no_longer_named_is_taken_away(joins: Joins, reports: Path) -> None:
    joins()
    (reports / "rank-3.sqlite").unlink()
    found = joins(idle)
    assert (found.forgotten, found.stages["steps"].to_pylist()) == (1, [6])
    assert not Folders(found.out).part("kernels", "rank-3").parent.exists()


def test_other_roofs_join_everything_again(joins: Joins) -> None:
    joins()
    assert joins(options=FleetOptions(hardware="NVIDIA H100 80GB HBM3")).joined == 4
    assert joins(options=FleetOptions(hardware="NVIDIA H100 80GB HBM3", force=True)).joined == 4


def test_damaged_reports_are_named_and_the_rest_goes_on(joins: Joins, reports: Path) -> None:
    (reports / "text.sqlite").write_text("not a report")
    whole = (reports / "rank-2.sqlite").read_bytes()
    (reports / "cut.sqlite").write_bytes(whole[: len(whole) // 2])
    (reports / "empty.sqlite").touch()
    found = joins()
    assert {state.name for state in found.failed} == {"text", "cut", "empty"}
    failed = json.loads((found.out / "failed.json").read_text())
    assert {one["report"] for one in failed} == {"text", "cut", "empty"}
    assert all(one["path"] in one["error"] for one in failed)
    assert found.stages["ranks"].to_pylist() == [4]
    assert joins(idle).failed == found.failed, "what its own bytes make fail is not tried again"
    write_report(reports / "cut.sqlite", 5)
    assert [state.name for state in joins().failed] == ["empty", "text"]


def test_what_the_machine_lacks_is_tried_again(joins: Joins, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (reports / "rank-9.nsys-rep").write_bytes(b"report")
    found = joins()
    assert [(state.name, state.lasting) for state in found.failed] == [("rank-9", False)]
    assert joins().joined == 1


def test_a_report_that_worked_and_is_damaged_leaves_no_rows(joins: Joins, reports: Path) -> None:
    joins()
    (reports / "rank-3.sqlite").write_text("gone")
    found = joins()
    assert found.stages["steps"].to_pylist() == [6]
    assert not Folders(found.out).part("ranges", "rank-3").exists()


def test_a_call_that_was_killed_is_taken_up(joins: Joins) -> None:
    first = joins()
    folders = Folders(first.out)
    folders.state("rank-1").unlink()
    folders.state("rank-2").write_text('{"format": 1, "na')
    (folders.part("kernels", "rank-1").parent / ".part.parquet.x.parquet").write_bytes(b"half")
    again = joins()
    assert again.joined == 2
    assert again.roofline.to_pylist() == first.roofline.to_pylist()
    assert [path.name for path in folders.part("kernels", "rank-1").parent.iterdir()] == ["part.parquet"]
    assert read_state(folders, "rank-1") is not None


def test_nothing_joined_is_refused_and_says_why(joins: Joins, reports: Path) -> None:
    for path in reports.iterdir():
        path.write_text("no")
    with pytest.raises(Refused, match="none of 4 reports could be joined; the first: "):
        joins()
    with pytest.raises(Refused, match="none of 4 reports"):
        joins(idle)


def test_a_directory_of_others_is_left_alone(joins: Joins, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(Refused, match=r"without fleet\.json"):
        joins()


def test_totals_that_do_not_balance_are_never_written(joins: Joins) -> None:
    found = joins()
    state = Folders(found.out).state("rank-0")
    told = json.loads(state.read_text())
    told["totals"]["roofline"]["wall_ns"] += 1
    state.write_text(json.dumps(told))
    assert joins().joined == 1, "a state that was changed is none"
    told.pop("seal")
    state.write_text(json.dumps(sealed(told)))
    with pytest.raises(AssertionError, match=r"roofline\.wall_ns"):
        joins(idle)


def test_the_ranks_runs_add_pages_and_clocks(joins: Joins, tmp_path: Path) -> None:
    from dsocr_nvtx.schema.files import write_table
    from dsocr_nvtx.schema.gauges import POWER
    from dsocr_nvtx.schema.page_records import PAGES
    from tests.builders.tables import filled

    run = tmp_path / "run" / "rank-3"
    run.mkdir(parents=True)
    write_table(filled(PAGES, [{"status": "done"}, {"status": "failed"}, {"status": "done"}]), run / "pages.arrow")
    samples = [{"sm_clock_mhz": 900, "throttle": "power_cap"}, {"sm_clock_mhz": 1000, "throttle": ""}]
    write_table(filled(POWER, samples), run / "power.arrow")
    options = evolve(FleetOptions(), run=tmp_path / "run")
    rows = {row["rank"]: row for row in joins(options=options).ranks.to_pylist()}
    assert (rows[3]["pages"], rows[3]["sm_clock_mhz"], rows[3]["throttle"]) == (2, 950.0, "power_cap")
    assert rows[0]["pages"] is None
    with pytest.raises(Refused, match="no rank's run directory"):
        joins(options=evolve(options, run=tmp_path))


@pytest.mark.parametrize("table", ["kernels", "ranges", "roofline", "stages"])
def test_other_tools_read_the_partitions_with_one_pattern(joins: Joins, table: str) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    out = joins().out
    wanted = [
        (f"rank-{rank}", pc.sum(pq.read_table(Folders(out).part(table, f"rank-{rank}"))["busy_owned_ns"]).as_py())
        for rank in range(4)
    ]
    pattern = f"{out}/{table}/*/part.parquet"
    query = f"select report, sum(busy_owned_ns)::bigint from read_parquet('{pattern}', hive_partitioning=true)"
    assert duckdb.sql(f"{query} group by report order by report").fetchall() == wanted
    scanned = (
        polars.scan_parquet(pattern, hive_partitioning=True).group_by("report").agg(polars.col("busy_owned_ns").sum())
    )
    assert scanned.sort("report").collect().rows() == wanted
