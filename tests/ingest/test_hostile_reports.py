"""Damaged and hostile reports, through the command line: one clear line, exit code 3, nothing half written."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.sqlite import SqliteFile
from tests.bench.generate import Size, generate
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload_v1 as payload

Limits = Callable[[], None]


def good(path: Path) -> Path:
    """Write a report that joins."""
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    for step in range(40):
        at = 1000 * step
        values = payload(event_id=step, stage=2, step=step, tensor_flops=9)
        file.push_pop("decoder.0.mlp", at, at + 900, values=values)
        file.launch("gemm", at + 10, at + 20, at + 400)
    return file.write(path)


def command(*arguments: object, limits: Limits | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    words = [sys.executable, "-m", "dsocr_nvtx", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, preexec_fn=limits, timeout=120)


def refused(report: Path, *, says: str = "", limits: Limits | None = None) -> str:
    """Join and project a report that must be refused; return the line of the join."""
    folder = report.parent / "out"
    folder.mkdir(exist_ok=True)
    for arguments in (("join", report, "-o", folder / "r.dsocr"), ("project", report, "-o", folder / "r.arrow")):
        done = command(*arguments, limits=limits)
        assert done.returncode == 3, (arguments, done)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert says in done.stderr
        assert done.stdout == ""
        assert not list(folder.iterdir()), "something was left"
    return done.stderr


def test_the_report_that_is_damaged_here_is_sound(tmp_path: Path) -> None:
    done = command("join", good(tmp_path / "r.sqlite"), "-o", tmp_path / "r.dsocr")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("keep", [0, 50, 4096, 5000, 0.3, 0.6, 0.9, -1])
def test_1_truncated(tmp_path: Path, keep: float) -> None:
    raw = good(tmp_path / "r.sqlite").read_bytes()
    whole = int(len(raw) * keep) if isinstance(keep, float) else keep
    (tmp_path / "cut.sqlite").write_bytes(raw[:whole])
    refused(tmp_path / "cut.sqlite", says="cut.sqlite")


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("CUPTI_ACTIVITY_KIND_KERNEL", "start", "'noon'"),
        ("CUPTI_ACTIVITY_KIND_KERNEL", "end", "1.5"),
        ("CUPTI_ACTIVITY_KIND_RUNTIME", "correlationId", "x'00ff'"),
        ("NVTX_EVENTS", "globalTid", "'me'"),
        ("NVTX_EVENTS", "end", "'later'"),
    ],
)
def test_2_wrong_types_in_columns(tmp_path: Path, table: str, column: str, value: str) -> None:
    path = good(tmp_path / "r.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE {table} SET {column} = {value} WHERE rowid = (SELECT max(rowid) FROM {table})")
    connection.close()
    refused(path, says=table)


def test_3_clones_in_a_circle_end(tmp_path: Path) -> None:
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    file.push_pop("decode", 0, 900, values=payload(event_id=0, stage=2, tensor_flops=3))
    file.call("cudaStreamBeginCapture_v10000", 5, 6)
    file.push_pop("decoder.0", 10, 50, values=payload(event_id=1, stage=2, tensor_flops=3))
    file.call("cudaStreamEndCapture_v10000", 60, 61)
    for node, original in ((1, 2), (2, 3), (3, 1)):
        file.node(node, 20, original=original)
    number = file.call("cudaGraphLaunch_v10000", 100, 110)
    file.kernel("gemm", 120, 130, correlation=number, node=1)
    done = command("join", file.write(tmp_path / "r.sqlite"), "-o", tmp_path / "r.dsocr")
    assert done.returncode == 0, done.stderr
    assert "layers are not in this report" in done.stdout


def test_4_a_name_of_a_hundred_million_characters(tmp_path: Path) -> None:
    # A billion need as many bytes of disk; the limit is 2^26.
    path = good(tmp_path / "r.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE StringIds SET value = CAST(zeroblob(100000000) AS TEXT) WHERE value = 'gemm'")
    connection.close()

    def little_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    refused(path, says="too big", limits=little_memory)


def test_5_sql_in_names_is_text(tmp_path: Path) -> None:
    evil = "'); DROP TABLE StringIds; --\""
    file = NsysFile()
    file.device(name="NVIDIA H200", pids=[1])
    file.domain(1)
    file.schema()
    file.push_pop(evil, 0, 900, values=payload(event_id=1, stage=2, tensor_flops=9))
    file.launch(evil, 10, 20, 30)
    path = file.write(tmp_path / "r.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute(f'CREATE TABLE "{evil.replace(chr(34), chr(34) * 2)}" ("a""b" INTEGER)')
    connection.close()
    before = path.read_bytes()
    done = command("join", path, "-o", tmp_path / "r.dsocr")
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes() == before


def test_6_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "NVTX_EVENTS.parquet").symlink_to("/etc/passwd")
    assert "passwd" not in refused(folder, says="a link")


def test_7_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.sqlite")
    refused(tmp_path / "r.sqlite", says="not a regular file")
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "NVTX_EVENTS.parquet")
    refused(folder, says="not a regular file")


def test_8_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = good(tmp_path / "r.sqlite")
    if os.geteuid() != 0:
        path.chmod(0)
        refused(path, says="cannot be read")
        return

    def denied(*_: object, **__: object) -> None:  # the superuser may read everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(Refused, match="cannot be read"):
        SqliteFile(path)


def test_9_disk_full_while_writing(tmp_path: Path) -> None:
    path = good(tmp_path / "r.sqlite")

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    refused(path, limits=little_room)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_10_stopped_while_writing(tmp_path: Path, how: signal.Signals) -> None:
    path = generate(tmp_path / "r.sqlite", Size(kernels=60_000, calls=60_000, ranges=8_000))
    target = tmp_path / "out" / "r.dsocr"
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-m", "dsocr_nvtx", "join", str(path), "-o", str(target)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as running:  # fmt: skip
            while running.poll() is None and not (target.parent.is_dir() and any(target.parent.iterdir())):
                time.sleep(0.001)
            running.send_signal(how)
        if not target.exists():
            break
    assert not target.exists() or (target / "join.json").is_file()
    done = command("join", path, "-o", target, "--force")
    assert done.returncode == 0, done.stderr


def test_11_two_runs_into_one_folder(tmp_path: Path) -> None:
    path = generate(tmp_path / "r.sqlite", Size(kernels=20_000, calls=20_000, ranges=4_000))
    done: list[subprocess.CompletedProcess[str]] = []

    def run() -> None:
        done.append(command("join", path, "-o", tmp_path / "r.dsocr"))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.returncode for one in done) in ([0, 3], [0, 0])
    loser = max(done, key=lambda one: one.returncode)
    assert loser.returncode == 3
    assert len(loser.stderr.splitlines()) == 1
    names = {p.name for p in (tmp_path / "r.dsocr").iterdir()}
    assert names >= {"kernels.arrow", "ranges.arrow", "roofline.arrow", "stages.arrow", "join.json"}
    assert {p.name for p in tmp_path.iterdir()} == {"r.sqlite", "r.dsocr"}


def test_12_a_schema_from_the_future(tmp_path: Path) -> None:
    path = good(tmp_path / "r.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL RENAME COLUMN correlationId TO correlation")
        connection.execute("UPDATE META_DATA_EXPORT SET value = '9.0.0'")
    connection.close()
    refused(path, says="CUPTI_ACTIVITY_KIND_KERNEL has no column correlationId (schema 9.0.0)")
