"""Whatever a user calls a report: a SQLite export, one packed with xz, a .nsys-rep through nsys."""

import hashlib
import lzma
import os
from pathlib import Path

import pytest

from dsocr_nvtx.errors import Refused, Unavailable, UsageError
from dsocr_nvtx.ingest.report import NSYS_SECONDS, read_report
from tests.builders.nsys import NsysFile


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Return a SQLite export with one kernel."""
    file = NsysFile()
    file.launch("gemm", 110, 120, 150)
    return file.write(tmp_path / "plain.sqlite")


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


def left(tmp_path: Path) -> list[str]:
    """Return what is left in the temporary folder."""
    return os.listdir(tmp_path / "temporary")


def test_a_plain_export_is_read_and_named(export: Path) -> None:
    trace = read_report(export)
    assert len(trace.operations) == 1
    assert trace.source["report"] == "plain.sqlite"
    assert trace.source["sha256"] == hashlib.sha256(export.read_bytes()).hexdigest()


def test_a_packed_export_is_the_same_and_leaves_nothing(export: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.sqlite.xz"
    packed.write_bytes(lzma.compress(export.read_bytes()))
    trace = read_report(packed)
    assert trace.operations.equals(read_report(export).operations)
    assert trace.source["report"] == "packed.sqlite.xz"
    assert trace.source["sha256"] == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert not left(tmp_path)


@pytest.mark.parametrize("content", [b"", b"text", lzma.compress(b"x" * 9999)[:60], lzma.compress(b"plain text")])
def test_a_packed_file_that_holds_no_export_is_refused_by_its_own_name(tmp_path: Path, content: bytes) -> None:
    packed = tmp_path / "packed.sqlite.xz"
    packed.write_bytes(content)
    with pytest.raises(Refused) as refused:
        read_report(packed)
    assert refused.value.where == packed
    assert not left(tmp_path)


@pytest.mark.parametrize("name", ["no.sqlite", "no.nsys-rep", "no.sqlite.xz", "no"])
def test_a_missing_report_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="no such file"):
        read_report(tmp_path / name)


def test_without_nsys_a_recording_names_the_command_to_run_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "run.nsys-rep").write_bytes(b"recording")
    with pytest.raises(Unavailable, match=r"nsys export -t sqlite --include-blobs true run\.nsys-rep"):
        read_report(tmp_path / "run.nsys-rep")


def _nsys(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "nsys").write_text("#!/bin/sh\n" + script)
    (folder / "nsys").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# The output name follows -o; it stands sixth.
COPY = 'echo "$@" >> "{log}"\ncp "{export}" "$7"\n'


def test_a_recording_is_exported_with_its_payloads(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _nsys(tmp_path / "bin", COPY.format(log=tmp_path / "log", export=export), monkeypatch)
    (tmp_path / "run.nsys-rep").write_bytes(b"recording")
    trace = read_report(tmp_path / "run.nsys-rep")
    assert len(trace.operations) == 1
    assert trace.source["report"] == "run.nsys-rep"
    assert trace.source["sha256"] == hashlib.sha256(b"recording").hexdigest()
    (said,) = (tmp_path / "log").read_text().splitlines()
    assert "--include-blobs true" in said
    assert not left(tmp_path)


def test_an_nsys_without_that_option_exports_without(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = 'case "$*" in *include-blobs*) echo "unrecognised option" >&2; exit 1;; esac\n'
    _nsys(tmp_path / "bin", refusing + COPY.format(log=tmp_path / "log", export=export), monkeypatch)
    (tmp_path / "run.nsys-rep").write_bytes(b"recording")
    assert len(read_report(tmp_path / "run.nsys-rep").operations) == 1


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo first >&2; echo '  the reason' >&2; exit 1\n", "nsys export failed:   the reason"),
        ("exit 0\n", "it said nothing"),
    ],
)
def test_an_export_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: str
) -> None:
    _nsys(tmp_path / "bin", script, monkeypatch)
    (tmp_path / "run.nsys-rep").write_bytes(b"recording")
    with pytest.raises(Refused, match=found):
        read_report(tmp_path / "run.nsys-rep")
    assert not left(tmp_path)


def test_a_name_that_begins_with_a_dash_is_no_option(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _nsys(tmp_path / "bin", COPY.format(log=tmp_path / "log", export=export), monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("--run.nsys-rep").write_bytes(b"recording")
    assert len(read_report(Path("--run.nsys-rep")).operations) == 1
    assert (tmp_path / "log").read_text().split()[-1] == str(tmp_path / "--run.nsys-rep")


def test_an_nsys_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _nsys(tmp_path / "bin", f"sleep 1000 & echo $! > {tmp_path}/child; wait\n", monkeypatch)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv(NSYS_SECONDS, "0.5")
    (tmp_path / "run.nsys-rep").write_bytes(b"recording")
    with pytest.raises(Refused, match=rf"nsys export took more than 0.5 s; set {NSYS_SECONDS} to more seconds"):
        read_report(tmp_path / "run.nsys-rep")
    child = Path("/proc") / (tmp_path / "child").read_text().strip() / "status"
    assert not child.exists() or "State:\tZ" in child.read_text(), "what it started is ended too"


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_limit_that_is_no_number_of_seconds_is_wrong_usage(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    _nsys(tmp_path / "bin", COPY.format(log=tmp_path / "log", export=export), monkeypatch)
    monkeypatch.setenv(NSYS_SECONDS, text)
    (tmp_path / "run.nsys-rep").write_bytes(b"recording")
    with pytest.raises(UsageError, match=NSYS_SECONDS):
        read_report(tmp_path / "run.nsys-rep")
