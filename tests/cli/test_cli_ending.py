"""How commands end: by the code that belongs to it, with one line, whoever reads the output and whatever it quotes."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dsocr_nvtx.errors import UNEXPECTED, Unprinted
from tests.builders.nsys import NsysFile
from tests.cli.commands import Commands, hooked, tree

RULE = "decode.busy_ns<=1s"


def command(*words: object, cwd: Path, stdout: object = subprocess.PIPE, **more: object) -> "subprocess.Popen[str]":
    """Start `python -m dsocr_nvtx`."""
    every = [sys.executable, "-m", "dsocr_nvtx", *map(str, words)]
    return subprocess.Popen(every, cwd=cwd, stdout=stdout, stderr=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def joined(dsocr: Commands, tmp_path: Path) -> Path:
    """Return a join's directory."""
    assert dsocr("join", hooked().write(tmp_path / "report.sqlite")).code == 0
    return tmp_path / "report.dsocr"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("show", "OUT"), 0), (("show", "OUT", "--json"), 0), (("--help",), 0),
        (("gate", "OUT", "--rule", RULE), 0), (("gate", "OUT", "--rule", "decode.busy_ns<=1ns"), 1),
    ],
)  # fmt: skip
def test_a_reader_that_has_gone_does_not_change_the_exit_code(joined: Path, words: tuple[str, ...], code: int) -> None:
    read, write = os.pipe()
    os.close(read)
    with command(*(joined if word == "OUT" else word for word in words), cwd=joined, stdout=write) as started:
        os.close(write)
        assert (started.communicate()[1], started.returncode) == ("", code)


def test_a_full_standard_output_is_said_with_what_is_written(joined: Path) -> None:
    report = joined.parent / "report.sqlite"
    with (
        Path("/dev/full").open("w") as full,
        command("join", report, "-o", "again", cwd=joined, stdout=full) as started,
    ):
        error = started.communicate()[1]
    assert (started.returncode, error) == (
        Unprinted.exit_code,
        "dsocr-nvtx: standard output: No space left on device; the tables are written: again\n",
    )
    assert tree(joined / "again") == [name for name in tree(joined) if not name.startswith("again")]


def test_a_disk_that_is_full_leaves_no_demo(tmp_path: Path) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    for out in ("demo", "demo.dsocr"):
        with command("demo", "-o", out, cwd=tmp_path, preexec_fn=small) as started:
            error = started.communicate()[1]
        assert started.returncode == 3, error
        assert len(error.splitlines()) == 1
        assert tree(tmp_path) == []


def test_a_defect_of_ours_is_one_line_and_its_own_code(
    dsocr: Commands, joined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object, **__: object) -> None:
        raise KeyError("wall\x1b[31m_ns")

    monkeypatch.setattr("dsocr_nvtx.report.opened.open_joined", defect)
    done = dsocr("show", joined)
    assert (done.code, len(done.err.splitlines())) == (UNEXPECTED, 1)
    assert "unexpected: KeyError: 'wall\\x1b[31m_ns'; the details are in " in done.err
    details = Path(done.err.split("the details are in ")[1].split(": please")[0])
    assert "in defect" in details.read_text()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError("Unable to allocate 3 EiB"), 3, "not enough memory (Unable to allocate 3 EiB)"),
        (OSError(28, "No space left on device", "x"), 3, "x: No space left on device"),
    ],
)
def test_what_the_system_refuses_has_a_line(
    dsocr: Commands, joined: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("dsocr_nvtx.report.opened.open_joined", refuse)
    done = dsocr("show", joined)
    assert done.code == code
    assert said in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("module", ["dsocr_nvtx", "dsocr_nvtx.run"])
def test_nothing_is_imported_from_the_current_directory(tmp_path: Path, module: str) -> None:
    for name in ("json", "typer", "pyarrow", "numpy", "attrs", "pathlib", "tempfile", "rich", "click", "typing"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported from here')")
    every = [sys.executable, "-m", module, "-h"]
    done = subprocess.run(every, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout


def test_names_never_reach_a_terminal_raw(dsocr: Commands, tmp_path: Path) -> None:
    name = "a\x1b[31m\x9bb.sqlite"
    report = hooked().write(tmp_path / name)
    for words in (
        ("join", report), ("join", report), ("show", tmp_path / "a\x1b[31m\x9bb.dsocr"), ("join", f"{report}.no"),
        ("report", tmp_path / "a\x1b[31m\x9bb.dsocr", "-o", tmp_path / "p\x1b.html"),
        ("project", report, "-o", tmp_path / "p\x1b.csv"), ("join", report, "--levels\x1b", "x"), ("\x1b[2J",),
    ):  # fmt: skip
        done = dsocr(*words)
        assert not {"\x1b", "\x9b"} & set(done.out + done.err), words
    assert "\x1b" not in (tmp_path / "p\x1b.html").read_text()


def test_a_name_that_is_no_text_is_joined_and_shown(tmp_path: Path) -> None:
    report = hooked().write(tmp_path / "plain.sqlite").rename(tmp_path / os.fsdecode(b"r\xff.sqlite"))
    for words, code in (
        (("join", report), 0), (("show", tmp_path / os.fsdecode(b"r\xff.dsocr")), 0), (("join", report), 3),
        (("report", tmp_path / os.fsdecode(b"r\xff.dsocr"), "-o", os.fsdecode(b"\xfe.html")), 0),
        (("ladder", tmp_path / os.fsdecode(b"r\xff.dsocr"), "-o", os.fsdecode(b"\xfe.csv")), 0),
        (("ladder", tmp_path / os.fsdecode(b"r\xff.dsocr"), "-o", os.fsdecode(b"\xfe.parquet")), 0),
        (("project", report, "-o", os.fsdecode(b"\xfe.arrow")), 0),
        (("join", tmp_path / os.fsdecode(b"*.sqlite"), "-o", os.fsdecode(b"fleet\xff")), 0),
    ):  # fmt: skip
        with command(*words, cwd=tmp_path) as started:
            out, error = started.communicate()
        assert started.returncode == code, (words, out, error)
        assert "Traceback" not in error


def test_project_says_what_it_wrote(dsocr: Commands, tmp_path: Path) -> None:
    report = hooked().write(tmp_path / "report.sqlite")
    done = dsocr("project", report, "-o", tmp_path / "p.csv")
    assert (done.code, done.out) == (0, f"projection: {tmp_path / 'p.csv'}, 3 ranges with GPU work\n")


def test_a_directory_of_reports_is_told_how_to_be_joined(dsocr: Commands, tmp_path: Path) -> None:
    (tmp_path / "all of them").mkdir()
    hooked().write(tmp_path / "all of them" / "rank-0.sqlite")
    done = dsocr("join", tmp_path / "all of them")
    assert (done.code, f"dsocr-nvtx join '{tmp_path}/all of them/*.sqlite' -o OUT" in done.err) == (3, True), done


def test_an_unhooked_report_is_told_what_takes_it(dsocr: Commands, tmp_path: Path) -> None:
    report = NsysFile()
    report.launch("gemm", 10, 20, 30)
    path = report.write(tmp_path / "of others.sqlite")
    done = dsocr("join", path)
    assert (done.code, f"dsocr-nvtx project '{path}' -o projected.csv" in done.err) == (3, True), done


def test_the_demo_and_a_fleet_end_with_the_file_to_open(dsocr: Commands, tmp_path: Path) -> None:
    done = dsocr("demo", "-o", tmp_path / "demo")
    assert done.out.splitlines()[-1] == f"open this in a browser: {tmp_path / 'demo' / 'review.html'}"
    assert (tmp_path / "demo" / "review.html").is_file()
    hooked().write(tmp_path / "rank-0.sqlite")
    done = dsocr("join", tmp_path / "*.sqlite", "-o", tmp_path / "fleet", "--workers", 1)
    assert done.out.splitlines()[-1] == f"open this in a browser: {tmp_path / 'fleet' / 'fleet.html'}"
    assert (tmp_path / "fleet" / "fleet.html").is_file()
