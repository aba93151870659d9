"""pytest-benchmark cases of reading, joining and projecting; not part of the default run.

Run as ``pytest tests/bench/bench_join.py`` with pytest-benchmark installed (extra ``bench``). Times of one machine say
little about another's; ratios within one run do.
"""

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dsocr_nvtx.ingest.nsys import read, read_projectable
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.join.projection import project
from tests.bench.generate import Size, generate
from tests.bench.tasks import bare_read

SIZES = {
    "one thread": Size(kernels=200_000, calls=200_000, ranges=40_000),
    "four threads on two devices": Size(kernels=200_000, calls=400_000, ranges=40_000, threads=4, devices=2),
    "announcements only": Size(kernels=200_000, calls=200_000, ranges=40_000, payloads=False),
}


@pytest.fixture(scope="module", params=list(SIZES))
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a generated report."""
    return generate(tmp_path_factory.mktemp("report") / "r.sqlite", SIZES[request.param])


def test_bench_bare_read(benchmark: BenchmarkFixture, report: Path) -> None:
    """Read the same columns through Python's sqlite3."""
    benchmark(bare_read, report)


def test_bench_read(benchmark: BenchmarkFixture, report: Path) -> None:
    """Read the report into tables."""
    assert len(benchmark(read, report).operations) == 200_000


def test_bench_join(benchmark: BenchmarkFixture, report: Path) -> None:
    """Join the tables."""
    trace = read(report)
    joined = benchmark(join, trace, "report")
    assert joined.accounting.buckets["attributed"].operations == 200_000


def test_bench_project(benchmark: BenchmarkFixture, report: Path) -> None:
    """Project every range."""
    found = read_projectable(report)
    assert len(benchmark(project, found.ranges, found.operations, found.launches)) == 40_000
