"""Ranks in a join: told by marks, by the run's directory, or by nobody; in every row, and never two for one process."""

import json
from pathlib import Path

import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.report import read_report
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.join.ranks import recorded_rank
from dsocr_nvtx.roofline.joined import joined_report, provenance
from dsocr_nvtx.schema.ranks import Rank, rank_mark
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload_v1 as payload


def two_ranks(path: Path, marks: dict[int, list[str]]) -> Path:
    """Write a report of two processes on two GPUs, each with a call, a kernel in it, and marks."""
    file = NsysFile()
    for pid, ordinal in ((11, 0), (22, 1)):
        file.device(ordinal=ordinal, identity=ordinal + 5, pids=[pid])
        file.domain(pid)
        values = payload(event_id=1, stage=2, kind=4, level=2, layer=0, tensor_flops=10)
        file.push_pop("decoder.0.mlp", 100, 200, pid=pid, values=values)
        file.launch("gemm", 110, 120, 150, pid=pid, device=ordinal)
        for text in marks.get(pid, []):
            file.mark(text, 90, pid=pid)
    file.schema()
    return file.write(path)


def mark(rank: int, world: int = 2, gpu: str = "") -> str:
    return rank_mark(Rank(rank=rank, world_size=world, host="node", gpu_uuid=gpu))


def test_every_row_carries_its_rank_and_gpu(tmp_path: Path) -> None:
    path = two_ranks(tmp_path / "a.sqlite", {11: [mark(1)] * 3, 22: [mark(0)]})
    whole = joined_report(path)
    found = whole.judge()
    wanted = {(11, 1, "GPU-uuid-5"), (22, 0, "GPU-uuid-6")}
    for table in (whole.joined.kernels, whole.joined.ranges, found.rows, found.stages):
        assert {(row["pid"], row["rank"], row["gpu_uuid"]) for row in table.to_pylist()} == wanted
    told = json.loads(provenance(whole.trace, whole.joined)["ranks"])
    assert [(one["pid"], one["rank"], one["world_size"], one["host"]) for one in told] == [
        (11, 1, 2, "node"), (22, 0, 2, "node"),
    ]  # fmt: skip


def test_ranks_change_nothing_else(tmp_path: Path) -> None:
    told = joined_report(two_ranks(tmp_path / "a.sqlite", {11: [mark(1)], 22: [mark(0)]})).joined
    silent = joined_report(two_ranks(tmp_path / "b.sqlite", {})).joined
    for one, other in ((told.kernels, silent.kernels), (told.ranges, silent.ranges)):
        assert one.drop_columns(["rank"]).to_pylist() == other.drop_columns(["rank"]).to_pylist()
    assert set(silent.kernels["rank"].to_pylist()) == {0}
    assert "ranks" not in joined_report(tmp_path / "b.sqlite").judge().rows.schema.metadata


def test_a_process_that_says_two_ranks_is_refused(tmp_path: Path) -> None:
    path = two_ranks(tmp_path / "a.sqlite", {11: [mark(0), mark(1)]})
    with pytest.raises(Refused, match="process 11 says that it is rank 0 of 2 on node and rank 1 of 2"):
        join(read_report(path), str(path))


def test_a_damaged_mark_is_passed_over(tmp_path: Path) -> None:
    path = two_ranks(tmp_path / "a.sqlite", {11: ["dsocr/1r 7", "dsocr/1r 3 2 h g", mark(1)]})
    assert join(read_report(path), "a").ranks == {11: Rank(rank=1, world_size=2, host="node")}


def test_the_gpu_of_a_mark_stands_in_where_the_report_has_none(tmp_path: Path) -> None:
    file = NsysFile()
    file.domain(1)
    file.schema()
    file.push_pop("decoder.0.mlp", 100, 200, values=payload(stage=2, kind=4, level=2, layer=0, tensor_flops=10))
    file.launch("gemm", 110, 120, 150)
    file.mark(mark(1, gpu="0A1B"), 90)
    joined = join(read_report(file.write(tmp_path / "a.sqlite")), "a")
    assert joined.kernels["gpu_uuid"].to_pylist() == ["GPU-0a1b"]


def test_the_run_directory_tells_what_the_report_does_not(tmp_path: Path) -> None:
    said = {"rank": 3, "world_size": 4, "host": "node", "gpu_uuid": "GPU-7"}
    (tmp_path / "run.json").write_text(json.dumps(said))
    rank = recorded_rank(tmp_path)
    assert rank == Rank(**said)  # type: ignore[arg-type]
    path = two_ranks(tmp_path / "a.sqlite", {})
    assert set(join(read_report(path), "a", told=rank).kernels["rank"].to_pylist()) == {3}
    told = two_ranks(tmp_path / "b.sqlite", {11: [mark(1)]})
    with pytest.raises(Refused, match="give each report its own run"):
        join(read_report(told), "b", told=rank)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rank": "0", "world_size": 1, "host": "h", "gpu_uuid": ""}'])
def test_a_run_directory_that_says_nothing_of_ranks_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert recorded_rank(tmp_path) is None
    assert recorded_rank(tmp_path / "nowhere") is None
