"""Runs of many pages on the CPU: a bad page costs itself, records agree with ranges, ranks share pages out."""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from attrs import evolve
from typer.testing import CliRunner

from dsocr_nvtx.errors import DsocrError, Partial, UsageError
from dsocr_nvtx.run import conveyor
from dsocr_nvtx.run.capture import RunOptions, capture
from dsocr_nvtx.run.drawing import draw_page
from dsocr_nvtx.run.loop import run_pages
from dsocr_nvtx.run.options import run_command
from dsocr_nvtx.run.page_records import PageRecord, one_line, page_statistics
from dsocr_nvtx.run.queue import Queued, batches
from dsocr_nvtx.run.ranks import launched_rank, local_device
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.page_records import PAGES
from dsocr_nvtx.schema.ranks import Rank

STAGES = ("vision", "prefill", "decode")
TINY = RunOptions(device="cpu", config="tiny", mode="tiny", max_new_tokens=3)
SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Draw four pages."""
    folder = tmp_path / "pages"
    folder.mkdir()
    for seed in range(4):
        draw_page(300, 400, seed).save(folder / f"p{seed}.png")
    return folder


def png(width: int, height: int) -> bytes:
    """Return a PNG file that says this size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def records(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's ``pages.arrow``."""
    table = read_table(directory / "pages.arrow")
    assert table.schema.names == PAGES.names
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def manifest(directory: Path) -> Any:
    return json.loads((directory / "run.json").read_text())


def names(folder: Path) -> tuple[str, ...]:
    return tuple(str(path) for path in sorted(folder.iterdir()))


def test_bad_pages_cost_one_line_and_one_record_each(
    pages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pages / "cut.png").write_bytes((pages / "p0.png").read_bytes()[:3000])
    (pages / "huge.png").write_bytes(png(100_000, 100_000))
    (pages / "text.png").write_text("a text")
    (pages / "zero.png").write_bytes(png(0, 0))
    given = (*names(pages), str(pages / "missing.png"))
    out = capture(evolve(TINY, pages=given, out=tmp_path / "run", batch=2, hooks=False))
    rows = records(out)
    assert [row["path"] for row in rows] == list(given)
    bad = {Path(row["path"]).name: row["error"] for row in rows if row["status"] == "failed"}
    assert set(bad) == {"cut.png", "huge.png", "text.png", "zero.png", "missing.png"}
    assert "10000000000 pixels; scale it down" in bad["huge.png"]
    assert sum(row["status"] == "done" for row in rows) == 4
    said = [line for line in capsys.readouterr().err.splitlines() if " failed: " in line]
    assert len(said) == 5
    assert all(error in "\n".join(said) for error in bad.values())
    output = json.loads((out / "output.json").read_text())["tokens"]
    assert [row is None for row in output] == [Path(name).name in bad for name in given]
    found = manifest(out)["page_statistics"]
    assert (found["pages"], found["failed"], found["not_run"]) == (4, 5, 0)


@pytest.mark.parametrize("world", ["1", "2"])
def test_the_command_ends_with_1_where_a_page_failed_but_never_ends_other_ranks(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: str
) -> None:
    """A launcher ends every rank as soon as one ends badly: the sign is then in the rank's own records alone."""
    if world == "2":
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": world}.items():
            monkeypatch.setenv(name, value)
    app = typer.Typer(add_completion=False)
    app.command()(run_command)
    words = ["--device", "cpu", "--config", "tiny", "--mode", "tiny", "--max-new-tokens", "2", "--no-hooks"]
    given = [str(pages / name) for name in ("p0.png", "p1.png", "missing.png", "p2.png")]

    def ended(out: Path, *some: str) -> BaseException | None:
        return CliRunner().invoke(app, [*words, "--out", str(out), *some]).exception

    found = ended(tmp_path / "bad", *given)
    if world == "2":
        assert found is None
        assert [row["status"] for row in records(tmp_path / "bad" / "rank-0")] == ["done", "failed"]
        return
    assert isinstance(found, Partial)
    assert str(found) == f"1 of 4 pages failed; the others are done; {tmp_path}/bad/pages.arrow says why"
    assert sum(row["status"] == "done" for row in records(tmp_path / "bad")) == 3
    assert ended(tmp_path / "good", *given[:2]) is None
    assert ended(tmp_path / "one", given[0]) is None


def test_pages_read_alone_and_in_a_queue_give_the_same_tokens(pages: Path, tmp_path: Path) -> None:
    out = capture(evolve(TINY, pages=names(pages), out=tmp_path / "many", hooks=False))
    queued = json.loads((out / "output.json").read_text())["tokens"]
    alone = []
    for name in names(pages):
        single = capture(evolve(TINY, pages=(name,), out=tmp_path / "one", hooks=False, force=True))
        assert not (single / "pages.arrow").exists()
        alone += json.loads((single / "output.json").read_text())["tokens"]
    assert queued == alone


def test_steps_go_on_over_batches_and_records_point_to_them(pages: Path, tmp_path: Path) -> None:
    draw_page(900, 400, 7).save(pages / "wide.png")
    out = capture(evolve(TINY, pages=names(pages), out=tmp_path / "run", batch=2, mode="gundam"))
    ranges = [row for row in read_table(out / "ranges.arrow").to_pylist() if row["path"] == row["stage"]]
    steps = {
        stage: [row["step"] for row in ranges if row["stage"] == stage] for stage in ("vision", "prefill", "decode")
    }
    assert steps == {"vision": [0, 1, 2], "prefill": [0, 1, 2], "decode": [0, 1, 2, 3, 4, 5]}
    rows = records(out)
    assert [(row["grid"], row["tiles"], row["batch"], row["batch_pages"]) for row in rows] == [
        ("1x1", 0, 0, 2), ("1x1", 0, 0, 2), ("1x1", 0, 1, 2), ("1x1", 0, 1, 2), ("2x1", 2, 2, 1),
    ]  # fmt: skip
    assert [(row["vision_step"], row["prefill_step"], row["decode_step"], row["decode_steps"]) for row in rows] == [
        (0, 0, 0, 2), (0, 0, 0, 2), (1, 1, 2, 2), (1, 1, 2, 2), (2, 2, 4, 2),
    ]  # fmt: skip
    assert all(row["vision_ns"] > 0 and row["prefill_ns"] > 0 and row["decode_ns"] > 0 for row in rows)
    assert {row["decoded_tokens"] for row in rows} == {2}
    assert {row["joules"] for row in rows} == {None}
    ids = read_table(out / "ranges.arrow")["event_id"].to_pylist()
    assert len(ids) == len(set(ids))
    summary = json.loads((out / "analytic_hooks" / "summary.json").read_text())
    assert (summary["pages"], summary["decoded_tokens"]) == (5, 10)


def break_batch(monkeypatch: pytest.MonkeyPatch, which: int, error: Exception) -> None:
    """Let one of the calls that run a batch (the warm-up is number 0) fail half-way, in its prefill."""
    real, calls = run_pages, [-1]

    def breaking(model: torch.nn.Module, *rest: Any, **more: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] != which:
            return real(model, *rest, **more)
        hook = model.get_submodule("model.language_model").register_forward_pre_hook(_raiser(error))
        try:
            return real(model, *rest, **more)
        finally:
            hook.remove()

    monkeypatch.setattr(conveyor, "run_pages", breaking)


def _raiser(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [RuntimeError("inside\nthe model"), torch.cuda.OutOfMemoryError("no memory")])
def test_a_batch_that_fails_costs_its_own_pages(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    break_batch(monkeypatch, 2, error)
    out = capture(evolve(TINY, pages=names(pages), out=tmp_path / "run"))
    rows = records(out)
    assert [row["status"] for row in rows] == ["done", "failed", "done", "done"]
    assert rows[1]["error"] in ("inside", "no memory")
    assert [row["vision_step"] for row in rows] == [0, 1, 2, 3]
    assert [row["prefill_step"] for row in rows] == [0, 1, 2, 3], "the step that failed was begun"
    assert [row["decode_step"] for row in rows] == [0, None, 2, 4]
    told = [row for row in read_table(out / "ranges.arrow").to_pylist() if row["path"] == row["stage"]]
    assert [row["step"] for row in told if row["stage"] == "vision"] == [0, 1, 2, 3]


def test_a_warm_up_that_fails_costs_its_pages_and_the_next_batch_warms_up(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_batch(monkeypatch, 0, RuntimeError("cold"))
    rows = records(capture(evolve(TINY, pages=names(pages), out=tmp_path / "run")))
    assert [row["status"] for row in rows] == ["failed", "done", "done", "done"]
    assert [row["vision_step"] for row in rows] == [None, 0, 1, 2]


@pytest.mark.parametrize(
    ("which", "statuses"),
    [(0, ["failed", "not_run", "not_run", "not_run"]), (2, ["done", "failed", "not_run", "not_run"])],
)
def test_a_lost_device_ends_the_run_and_keeps_the_records(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int, statuses: list[str]
) -> None:
    said = "CUDA error: device-side assert triggered"
    break_batch(monkeypatch, which, RuntimeError(said))

    def wait_for(_device: torch.device) -> None:
        if broken:
            raise RuntimeError(f"{said}\nmore lines")

    broken: list[str] = []
    monkeypatch.setattr(conveyor, "wait_for", wait_for)

    def note(error: BaseException) -> str:
        broken.append(one_line(error))
        return broken[-1]

    monkeypatch.setattr(conveyor, "one_line", note)
    with pytest.raises(DsocrError, match=rf"the device cannot be used any more \({said}\)"):
        capture(evolve(TINY, pages=names(pages), out=tmp_path / "run"))
    rows = records(tmp_path / "run")
    assert [row["status"] for row in rows] == statuses
    assert manifest(tmp_path / "run")["page_statistics"]["not_run"] == statuses.count("not_run")


def test_a_run_without_a_single_page_says_why(tmp_path: Path) -> None:
    options = evolve(TINY, pages=("a.png", "b.png"), out=tmp_path / "run", hooks=False)
    with pytest.raises(DsocrError, match=r"none of 2 pages could be run, the first because: a\.png: No such"):
        capture(options)
    assert [row["status"] for row in records(tmp_path / "run")] == ["failed", "failed"]


@pytest.mark.parametrize("wrong", [{"tiles": (2, 3)}, {"prompt": "Free OCR."}, {"calibrate": True}])
def test_what_no_page_could_have_is_wrong_usage(pages: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        capture(evolve(TINY, pages=names(pages), out=tmp_path / "run", **wrong))
    assert not (tmp_path / "run").exists()


def test_ranks_share_the_pages_out(pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = names(pages)[:3]
    for rank in (0, 1):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
            monkeypatch.setenv(name, str(value))
        assert capture(evolve(TINY, pages=given, out=tmp_path / "run")) == tmp_path / "run" / f"rank-{rank}"
    both = [records(tmp_path / "run" / f"rank-{rank}") for rank in (0, 1)]
    assert [[row["index"] for row in rows] for rows in both] == [[0, 2], [1]]
    assert [{row["rank"] for row in rows} for rows in both] == [{0}, {1}]
    told = [manifest(tmp_path / "run" / f"rank-{rank}") for rank in (0, 1)]
    assert [(one["rank"], one["world_size"], bool(one["host"])) for one in told] == [(0, 2, True), (1, 2, True)]


def test_a_rank_without_pages_draws_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", 1), ("LOCAL_RANK", 1), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    rows = records(capture(evolve(TINY, out=tmp_path / "run", hooks=False)))
    assert [(row["index"], row["status"]) for row in rows] == [(1, "done")]
    with pytest.raises(UsageError, match="ranks need --out"):
        capture(TINY)


def test_what_a_launcher_says() -> None:
    told = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
    rank = launched_rank(told)
    assert rank is not None
    assert (rank.rank, rank.world_size) == (5, 8)
    assert local_device(told) == "cuda:1"
    assert (launched_rank({}), local_device({"LOCAL_RANK": "1"})) == (None, None)


@pytest.mark.parametrize(
    "told",
    [
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "0"},
        {"RANK": "99999999999", "WORLD_SIZE": "999999999999"},
        {"RANK": "0", "WORLD_SIZE": "9" * 5000},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
    ],
)
def test_what_no_launcher_says_is_wrong_usage(told: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"RANK|WORLD_SIZE"):
        launched_rank(told)


def test_torchrun_runs_ranks(pages: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "dsocr_nvtx.run", *names(pages), "--device", "cpu", "--config", "tiny", "--mode", "tiny"]
    command += ["--max-new-tokens", "2", "-o", "run"]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [row for rank in (0, 1) for row in records(tmp_path / "run" / f"rank-{rank}")]
    assert sorted((row["index"], row["rank"], row["status"]) for row in rows) == [
        (0, 0, "done"), (1, 1, "done"), (2, 0, "done"), (3, 1, "done"),
    ]  # fmt: skip


def test_marks_say_the_rank_at_every_batch_and_every_32_steps(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Rank] = []
    monkeypatch.setattr(conveyor, "rank_marker", lambda rank: lambda: said.append(rank))
    options = evolve(TINY, pages=names(pages)[:2], out=tmp_path / "run", hooks=False, max_new_tokens=34)
    capture(options)
    assert [rank.rank for rank in said] == [0, 0, 0, 0]
    said.clear()
    capture(evolve(options, pages=names(pages)[:1], force=True))
    assert said == [], "a single page's report is as it always was"


def test_a_queue_holds_one_batch_of_each_grid(pages: Path) -> None:
    draw_page(900, 400, 7).save(pages / "o-wide.png")
    rows = [PageRecord(index=at, path=name) for at, name in enumerate(names(pages))]
    failed: list[PageRecord] = []
    found: list[tuple[Queued, ...]] = list(batches(rows, 3, "gundam", None, failed.append))
    assert [[queued.record.index for queued in group] for group in found] == [[1, 2, 3], [0], [4]]
    assert failed == []


def test_statistics_are_of_times_that_pages_had() -> None:
    made: dict[str, Any] = {"path": "", "status": "done", "prefill_ns": 0, "decode_steps": 10, "decoded_tokens": 10}
    rows = [PageRecord(index=at, vision_ns=at, decode_ns=10 * at, **made) for at in range(1, 101)]
    rows += [PageRecord(index=200, path="", status="failed")]
    found: Any = page_statistics(rows, 4.0)
    assert found["per_page"]["vision_ns"] == {"mean": 50.5, "min": 1, "p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert found["per_page"]["page_ns"]["p50"] == 550
    assert found["per_token"]["decode_ns"]["max"] == 100
    assert (found["pages"], found["failed"], found["decoded_tokens"]) == (100, 1, 1000)
    assert (found["pages_per_second"], found["tokens_per_second"], found["joules"]) == (25.0, 250.0, None)
    assert found["per_page"]["load_ns"] is None
    assert page_statistics([], 0.0)["pages_per_second"] is None
