"""The shell scripts around nsys: which commands they run, seen by stand-ins for nsys and torchrun."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "nsys_scripts"
FLAGS = ["--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", "--cuda-graph-trace=node", "--cuda-event-trace=false"]
TORCHRUN = ["torchrun", "--standalone", "--nproc-per-node=2", "--no-python"]
RANGE = ["--capture-range=cudaProfilerApi", "--capture-range-end=stop"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a `nsys` and a `torchrun` that print their command line, one word a line."""
    for name in ("nsys", "torchrun"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(folder: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a script with the stand-ins on the PATH."""
    found = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": "py"}
    command = ["bash", str(SCRIPTS / script), *words]
    return subprocess.run(command, env=found, capture_output=True, text=True, check=False, timeout=60)


def words(folder: Path, script: str, *arguments: str) -> list[str]:
    """Return the words of the command that a script runs."""
    done = run(folder, script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_profile_runs_the_package_with_its_flags(folder: Path) -> None:
    assert words(folder, "profile.sh", "-o", "r", "--batch", "2") == [
        "nsys", "profile", *FLAGS, "--output=r", "py", "-m", "dsocr_nvtx.run", "--batch", "2",
    ]  # fmt: skip


def test_a_report_per_rank_is_named_by_the_rank_inside_torchrun(folder: Path) -> None:
    ran = words(folder, "profile_ranks.sh", "-n", "2", "-o", "r", "./train.sh", "x y")
    assert ran == [*TORCHRUN, "nsys", "profile", *FLAGS, "--output=r.%q{RANK}", "./train.sh", "x y"]


def test_one_report_for_all_ranks_is_recorded_around_torchrun(folder: Path) -> None:
    ran = words(folder, "profile_ranks.sh", "-n", "2", "--one", "--range", "./train.sh")
    assert ran == ["nsys", "profile", *FLAGS, *RANGE, "--output=report", *TORCHRUN, "./train.sh"]


def test_without_a_command_each_rank_runs_the_package_into_one_directory(folder: Path) -> None:
    """The run itself takes the GPU of its rank and appends rank-N, which is what `join --run` looks for."""
    ran = words(folder, "profile_ranks.sh", "-n", "2", "--range", "--batch", "2")
    assert ran == [
        *TORCHRUN, "nsys", "profile", *FLAGS, *RANGE, "--output=report.%q{RANK}",
        "py", "-m", "dsocr_nvtx.run", "--out", "run", "--batch", "2", "--capture-range",
    ]  # fmt: skip


def test_a_number_of_ranks_is_asked_for(folder: Path) -> None:
    done = run(folder, "profile_ranks.sh", "./train.sh")
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")


def test_an_export_has_the_payloads_and_keeps_what_is_there(folder: Path) -> None:
    ran = words(folder, "export.sh", "a b.nsys-rep")
    assert ran == ["nsys", "export", "--type=sqlite", "--include-blobs=true", "--force-overwrite=false", "a b.nsys-rep"]
    ran = words(folder, "export.sh", "--type", "arrowdir", "--force", "-o", "out", "r.nsys-rep")
    assert ran[2:] == [
        "--type=arrowdir",
        "--include-blobs=true",
        "--force-overwrite=true",
        "--output=out",
        "r.nsys-rep",
    ]
    assert run(folder, "export.sh").returncode == 2


NEEDS = [("profile.sh", "x"), ("profile_ranks.sh", "-n", "2", "x"), ("export.sh", "r.nsys-rep")]


def without(tmp_path: Path, *words: str, there: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a script where nothing but sed, and what is named, is on the PATH."""
    for name in ("sed", *there):
        (tmp_path / name).symlink_to(shutil.which(name) or "/bin/true")
    script, *others = words
    command = [shutil.which("bash") or "bash", str(SCRIPTS / script), *others]
    return subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("command", NEEDS, ids=lambda command: command[0])
def test_without_nsys_one_line_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = without(tmp_path, *command)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert f"{command[0]}: nsys is not on the PATH; install NVIDIA Nsight Systems" in done.stderr


def test_without_torchrun_one_line_says_so(tmp_path: Path) -> None:
    done = without(tmp_path, "profile_ranks.sh", "-n", "2", "x", there=("nsys",))
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "torchrun is not on the PATH; it comes with PyTorch" in done.stderr


@pytest.mark.parametrize("word", ["-h", "--help"])
@pytest.mark.parametrize("script", [command[0] for command in NEEDS])
def test_help_is_what_stands_at_the_top_and_needs_nothing(tmp_path: Path, script: str, word: str) -> None:
    """Oracle: the comment at the top, without its marks."""
    head = (SCRIPTS / script).read_text().split("\nset -e")[0].splitlines()[1:]
    done = without(tmp_path, script, word)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [line.removeprefix("#").removeprefix(" ") for line in head]
    assert f"nsys_scripts/{script} " in done.stdout


def test_help_of_the_command_is_the_commands(folder: Path) -> None:
    assert words(folder, "profile.sh", "./train.sh", "--help")[-2:] == ["./train.sh", "--help"]


def test_the_scripts_are_clean() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    files = sorted(map(str, SCRIPTS.glob("*.sh")))
    done = subprocess.run(["shellcheck", *files], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
