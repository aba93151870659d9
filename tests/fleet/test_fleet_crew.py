"""Crews: every task ends exactly once, whatever dies meanwhile."""

from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest

from dsocr_nvtx.errors import Unavailable
from dsocr_nvtx.fleet.crew import Crew, dask_crew, local_crew, work_through
from dsocr_nvtx.fleet.engine import FleetOptions, join_fleet, plan_fleet
from dsocr_nvtx.fleet.inputs import inputs_of
from tests.fleet.reports import deadly, deadly_once, write_report


def threads() -> Executor:
    return ThreadPoolExecutor(2)


def test_every_task_ends_once() -> None:
    found = list(work_through(Crew(threads, 3), range(20), lambda n: n * n, lambda _n, _r: -1))
    assert sorted(found) == [n * n for n in range(20)]


def test_no_tasks_start_nothing() -> None:
    def never() -> Executor:
        raise AssertionError("started")

    assert list(work_through(Crew(never, 3), [], deadly, lambda _n, _r: -1)) == []


def test_work_that_raises_is_given_up_and_the_rest_goes_on() -> None:
    tried: list[int] = []

    def work(number: int) -> int:
        tried.append(number)
        return 1 // (number - 2)

    found = list(work_through(Crew(threads, 2), range(4), work, lambda n, _r: 100 + n))
    assert sorted(found) == [-1, -1, 1, 102]
    assert tried.count(2) == 3


def test_a_task_that_kills_its_process_is_given_up_alone() -> None:
    reasons: list[str] = []

    def give_up(number: int, reason: str) -> int:
        reasons.append(reason)
        return -number

    found = list(work_through(local_crew(2), range(6), deadly, give_up))
    assert sorted(found) == [-3, 0, 1, 4, 16, 25]
    assert len(reasons) == 1


def test_a_process_that_dies_costs_its_task_a_second_try(tmp_path: Path) -> None:
    assert list(work_through(local_crew(1), [str(tmp_path / "met")], deadly_once, lambda _n, _r: "lost")) == ["done"]


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    import distributed

    def refuse(*_: object, **__: object) -> object:
        raise OSError("Timed out trying to connect\nto somewhere")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(Unavailable, match="tcp://nowhere:1: no Dask scheduler answers"):
        list(work_through(dask_crew("tcp://nowhere:1"), [1], deadly, lambda _n, _r: -1))


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(Unavailable, match="scale"):
        dask_crew("tcp://nowhere:1")


def test_a_dask_cluster_joins_what_threads_join(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    for rank in range(3):
        write_report(tmp_path / f"rank-{rank}.sqlite", rank)
    (tmp_path / "bad.sqlite").write_text("no report")
    options = FleetOptions()
    plan = plan_fleet(inputs_of([tmp_path / "*.sqlite"]), tmp_path / "out", options)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:  # fmt: skip
        found = join_fleet(plan, lambda: dask_crew(cluster.scheduler_address), options)
    assert [state.name for state in found.failed] == ["bad"]
    assert found.stages["ranks"].to_pylist() == [3]
