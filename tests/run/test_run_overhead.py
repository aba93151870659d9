"""What hooks cost: every variant is measured in the same rounds, and the model is bare between them."""

import json
from pathlib import Path

import pytest
from attrs import evolve
from tests.hooks.networks import attached

from dsocr_nvtx.cli.overhead import overhead, overhead_table
from dsocr_nvtx.errors import Refused, UsageError
from dsocr_nvtx.run.overhead import AGAIN, BARE, HOOKS, Overhead, measure_overhead, median_interval
from dsocr_nvtx.run.progress import run_progress
from dsocr_nvtx.run.workload import RunOptions, Workload, prepare

OPTIONS = RunOptions(config="tiny", device="cpu", mode="tiny")


@pytest.fixture(scope="module")
def work() -> Workload:
    with run_progress() as progress:
        return prepare(OPTIONS, progress)


@pytest.mark.parametrize("decode", ["eager", "static"])
@pytest.mark.parametrize("level", ["layer", "op"])
def test_every_variant_is_measured_and_leaves_nothing_behind(work: Workload, decode: str, level: str) -> None:
    found = measure_overhead(evolve(work, decoding=evolve(work.decoding, mode=decode)), level=level, rounds=8)
    assert {HOOKS, "record_function"} < {row.variant for row in found}
    assert BARE not in {row.variant for row in found}
    for row in found:
        assert (row.level, row.decode, row.rounds) == (level, decode, 8)
        assert row.low_ns <= row.cost_ns <= row.high_ns
        assert row.bare_ns > 0
    # Step and model; of three layers: two norms, attention, gate, experts and the like at level op.
    (calls,) = {row.calls for row in found if row.variant != AGAIN}
    assert [row.calls for row in found if row.variant == AGAIN] == [0]
    assert calls == (27 if level == "op" else 6)
    assert not attached(work.model)


def test_a_replayed_graph_has_no_hooks_to_measure(work: Workload) -> None:
    with pytest.raises(UsageError, match="graph"):
        measure_overhead(evolve(work, decoding=evolve(work.decoding, mode="graph")), level="op", rounds=8)


def test_the_interval_holds_the_median() -> None:
    low, high = median_interval([1.0, 2.0, 3.0, 4.0, 100.0])
    assert 1.0 <= low <= 3.0 <= high <= 100.0
    assert median_interval([5.0] * 9) == (5.0, 5.0)


def test_costs_are_told_per_range_and_as_a_part_of_the_step(tmp_path: Path) -> None:
    row = Overhead(
        variant=HOOKS, level="op", decode="static", rounds=9, calls=200, step_ns=10_400_000, bare_ns=10_000_000,
        cost_ns=400_000, low_ns=390_000, high_ns=410_000,
    )  # fmt: skip
    assert (row.per_call_ns, row.share) == (2000.0, 0.04)
    assert overhead_table([row]).row_count == 1
    overhead(OPTIONS, rounds=8, out=tmp_path / "o.json")
    before = (tmp_path / "o.json").read_bytes()
    assert {"variant", "per_call_ns", "share"} < set(json.loads(before)[0])
    with pytest.raises(Refused, match="--force"):
        overhead(evolve(OPTIONS, device="cuda:99"), rounds=8, out=tmp_path / "o.json")
    assert (tmp_path / "o.json").read_bytes() == before
