"""How a fleet's join grows: generated reports, damaged ones among them, on a local Dask cluster of two workers.

Run as ``python -m tests.bench.fleet FOLDER --reports 10 100 1000``; it prints one line for each count. Reports are all
generated, not copied: each has its own rank and number of steps. Of every hundred, one is damaged. In each run but the
smallest one worker is killed half-way. Times are of a machine that others may use, so what a report costs in a fleet is
told by turns: the same two workers are given, one after the other, tasks of the fleet and plain single joins (read,
join, write all tables as Arrow), until each has had a hundred; ``task_over_single`` is the ratio of their medians.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from dsocr_nvtx.fleet.crew import dask_crew
from dsocr_nvtx.fleet.engine import MERGED, Fleet, FleetOptions, join_fleet, plan_fleet
from dsocr_nvtx.fleet.inputs import inputs_of
from dsocr_nvtx.fleet.merge import merged_roofline, merged_stages
from dsocr_nvtx.fleet.parts import read_partitions
from dsocr_nvtx.fleet.spread import fleet_ranks, slowest_causes
from dsocr_nvtx.fleet.state import Folders, ReportState
from dsocr_nvtx.fleet.task import join_one
from dsocr_nvtx.ingest.process import prepare_process
from dsocr_nvtx.report.fleet_page import write_fleet_pages
from dsocr_nvtx.roofline.joined import joined_report, write_tables
from dsocr_nvtx.schema.ranks import Rank, rank_mark
from tests.bench.generate import RANGES_PER_STEP, Size, generate, global_id

KERNELS = 20_000


def make_reports(folder: Path, count: int, kernels: int = KERNELS) -> int:
    """Write reports ``rank-N.sqlite`` that are not there yet; return how many of them are damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"rank-{number}.sqlite"
        if not path.exists():
            # From 40 to 44 steps, so that ranks have more and less work.
            size = Size(kernels=kernels, calls=2 * kernels, ranges=(40 + number % 5) * RANGES_PER_STEP)
            _marked(generate(path, size), Rank(rank=number, world_size=count, host=f"node-{number // 8}"))
            if number % 100 == 37:
                _damaged(path, number // 100)
    return len(range(37, count, 100))


def _marked(path: Path, rank: Rank) -> None:
    connection = sqlite3.connect(path)
    row = (500, 34, rank_mark(rank), global_id(Size().pid, Size().pid), 0)
    connection.execute(
        "INSERT INTO NVTX_EVENTS (start, eventType, text, globalTid, domainId) VALUES (?, ?, ?, ?, ?)", row
    )
    connection.commit()
    connection.close()


def _damaged(path: Path, how: int) -> None:
    """Damage a report: cut in half, text instead, nothing in it, or its strings gone."""
    if how % 4 == 0:
        os.truncate(path, path.stat().st_size // 2)
    elif how % 4 == 1:
        path.write_text("not a report\n")
    elif how % 4 == 2:
        os.truncate(path, 0)
    else:
        connection = sqlite3.connect(path)
        connection.execute("DROP TABLE StringIds")
        connection.commit()
        connection.close()


def single_join(folder: Path, number: int) -> tuple[float, float]:
    """Join one report as the command for one does; return its seconds, by the clock and of the processor."""
    prepare_process()
    begun, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        whole = joined_report(folder / f"rank-{number}.sqlite")
        write_tables(Path(out) / "one", whole, force=False)
    return time.perf_counter() - begun, time.process_time() - cpu


def by_turns(reports: Path, out: Path, count: int, client: Any) -> dict[str, float]:
    """Let the workers join reports as tasks of a fleet and as single joins, in turns; return the medians."""
    shutil.rmtree(out, ignore_errors=True)
    numbers = [number for number in range(count) if number % 100 != 37]
    plan = plan_fleet(inputs_of([reports / f"rank-{number}.sqlite" for number in numbers]), out, FleetOptions())
    tasks, single = [], []
    for number, task in zip(numbers, plan.tasks, strict=True):
        tasks.append(client.submit(join_one, task, pure=False))
        single.append(client.submit(single_join, reports, number, pure=False))
    states, plain = client.gather(tasks)[4:], client.gather(single)[4:]  # the first ones are cold
    shutil.rmtree(out)
    return {
        "task_s": statistics.median(state.seconds for state in states),
        "single_s": statistics.median(one[0] for one in plain),
        "task_cpu_s": statistics.median(state.cpu_seconds for state in states),
        "single_cpu_s": statistics.median(one[1] for one in plain),
    }


def measure(reports: Path, out: Path, count: int, address: str, kill: Callable[[], None] | None) -> dict[str, Any]:
    """Join ``count`` reports on the cluster; return what was measured."""
    shutil.rmtree(out, ignore_errors=True)
    inputs = inputs_of([reports / f"rank-{number}.sqlite" for number in range(count)])
    options, ended = FleetOptions(), list[float]()

    def note(_state: ReportState) -> None:
        ended.append(time.perf_counter())
        if kill is not None and len(ended) == count // 2:
            kill()

    begun = time.perf_counter()
    found = join_fleet(plan_fleet(inputs, out, options), lambda: dask_crew(address), options, note)
    joined = time.perf_counter() - begun
    merged = time.perf_counter() - ended[-1]
    begun = time.perf_counter()
    page = write_fleet_pages(found)
    paged = time.perf_counter() - begun
    again, second = _second(inputs, out, options, address)
    done = [state for state in found.states.values() if state.done]
    return {
        "reports": count,
        "joined": len(done),
        "failed": len(found.failed),
        "named": sorted(state.name for state in found.failed)[:3],
        "wall_s": joined,
        "per_report_s": statistics.median(state.seconds for state in done),
        "per_report_cpu_s": statistics.median(state.cpu_seconds for state in done),
        "busy_share": sum(state.seconds for state in found.states.values()) / 2 / joined,
        "merge_s": merged,
        "page_s": paged,
        "page_mb": page.stat().st_size / 1e6,
        "second_call_s": second,
        "second_call_tasks": again.joined,
        "worker_peak_mb": max(state.peak_kb for state in done) / 1024,
        "caller_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "out_mb_per_report": sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 1e6 / count,
        "merged_mb": sum((out / f"{name}.arrow").stat().st_size for name in MERGED) / 1e6,
        "totals_equal": _equal(found),
    }


def merge_alone(out: Path, times: int) -> dict[str, float]:
    """Put together a fleet's rows as if it had ``times`` as many ranks: what grows in the caller, without the joins."""
    folders = Folders(out)
    names = [path.parent.name.removeprefix("report=") for path in sorted(out.glob("roofline/*/part.parquet"))]
    begun = time.perf_counter()
    tables = {table: read_partitions(folders, table, names) for table in ("roofline", "stages")}
    read = time.perf_counter() - begun
    many = {table: pa.concat_tables(_renamed(rows, copy) for copy in range(times)) for table, rows in tables.items()}
    begun = time.perf_counter()
    merged_roofline(many["roofline"], {})
    merged_stages(many["stages"], slowest_causes(fleet_ranks(many["stages"], {}, {}, {})), {})
    return {
        "ranks": times * len(names),
        "rows": len(many["roofline"]),
        "read_once_s": read,
        "merge_s": time.perf_counter() - begun,
        "rows_mb": sum(table.nbytes for table in many.values()) / 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _renamed(rows: pa.Table, copy: int) -> pa.Table:
    names = [f"{copy}-{name}" for name in rows["report"].cast(pa.string()).to_pylist()]
    return rows.set_column(rows.schema.get_field_index("report"), "report", pa.array(names).dictionary_encode())


def _second(inputs: list[Any], out: Path, options: FleetOptions, address: str) -> tuple[Fleet, float]:
    begun = time.perf_counter()
    again = join_fleet(plan_fleet(inputs, out, options), lambda: dask_crew(address), options)
    return again, time.perf_counter() - begun


def _equal(found: Fleet) -> bool:
    """Add the partitions up again, each read on its own, and compare with the merged table."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    parts = [pq.read_table(path, partitioning=None) for path in sorted(found.out.glob("roofline/*/part.parquet"))]
    names = [
        item.name
        for item in found.roofline.schema
        if pa.types.is_int64(item.type) and item.name in parts[0].column_names
    ]
    return all(
        pc.sum(found.roofline[name]).as_py() == sum(pc.sum(part[name]).as_py() for part in parts) for name in names
    )


def main() -> None:
    """Generate, start the cluster, measure every count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reports", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--merge", type=int, help="only put together FOLDER, a fleet's directory, so many times over")
    given = parser.parse_args()
    if given.merge:
        print(json.dumps(merge_alone(given.folder, given.merge)))
        return
    distributed: Any = import_module("distributed")

    begun = time.perf_counter()
    make_reports(given.folder / "reports", max(given.reports))
    print(f"reports ready after {time.perf_counter() - begun:.0f} s", flush=True)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit="2GiB", dashboard_address=None
    ) as cluster, distributed.Client(cluster) as client:  # fmt: skip
        folder = given.folder / "reports"

        def kill() -> None:
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

        for count in given.reports:
            out, killer = given.folder / f"out-{count}", kill if count > 10 else None
            row = measure(folder, out, count, cluster.scheduler_address, killer)
            print(json.dumps(row), flush=True)
        turns = by_turns(folder, given.folder / "turns", min(max(given.reports), 104), client)
        turns["task_over_single"] = turns["task_s"] / turns["single_s"]
        turns["task_over_single_cpu"] = turns["task_cpu_s"] / turns["single_cpu_s"]
        print(json.dumps(turns), flush=True)


if __name__ == "__main__":
    main()
