"""README and the handbook do what they say: commands are run, or, where they need a GPU, held to the command line."""

import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from typer.main import get_command

from dsocr_nvtx.cli.commands import app
from dsocr_nvtx.demo import CAPTURE
from dsocr_nvtx.handbook import page, topics

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EVERYTHING = "\n".join([README, *map(page, topics())])


def blocks(name: str, language: str) -> list[str]:
    """Return the fenced blocks of a language that stand under a comment of that name."""
    return re.findall(rf"^<!-- {name} -->\n```{language}\n(.*?)^```$", EVERYTHING, re.MULTILINE | re.DOTALL)


def lines(name: str) -> list[str]:
    """Return the commands in the shell blocks of that name."""
    return [line for block in blocks(name, "sh") for line in block.splitlines() if line and not line.startswith("#")]


@pytest.fixture
def place(demo_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder as README has it before a user: a report, its join, and the join of the run before."""
    for name in ("report.dsocr", "before.dsocr"):
        shutil.copytree(demo_out, tmp_path / name)
    capture = resources.files("dsocr_nvtx.demo") / CAPTURE
    (tmp_path / "report.sqlite").write_bytes(lzma.decompress(capture.read_bytes()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_blocks_that_are_tested_are_there() -> None:
    assert len(lines("run")) >= 6
    assert len(lines("gpu")) >= 5
    assert all(len(blocks(name, "python")) == 1 for name in ("notebook", "duckdb", "polars", "pandas"))


def test_what_the_demo_prints_is_what_it_prints(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dsocr_nvtx", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    (block,) = blocks("demo", "text")
    assert [line for line in block.splitlines() if line not in printed] == []


@pytest.mark.parametrize("line", lines("run"))
def test_commands_run_as_they_stand(line: str, place: Path) -> None:
    words = shlex.split(line, comments=True)
    assert words[0] == "dsocr-nvtx"
    done = subprocess.run(
        [sys.executable, "-m", "dsocr_nvtx", *words[1:]], cwd=place, capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if "-o" in words:
        assert (place / words[words.index("-o") + 1]).stat().st_size > 0


def options(name: str) -> set[str]:
    """Return every option that a subcommand has."""
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def spoken(text: str, more: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield every subcommand with options that a text writes between backticks, and in ``more`` lines."""
    for said in [*more, *re.findall(r"`([^`\n]+)`", text)]:
        words = shlex.split(said.replace("'", ""), comments=True)
        for program, skip in (("dsocr-nvtx", 1), ("dsocr_nvtx.run", 0)):
            if program in words:
                at = words.index(program)
                name = words[at + 1] if skip and at + 1 < len(words) else "run"
                yield name, [word.split("=")[0] for word in words[at + 1 :] if word.startswith("-")]


@pytest.mark.parametrize(("name", "used"), list(spoken(README, lines("gpu"))))
def test_what_is_not_run_is_held_to_the_command_line(name: str, used: list[str]) -> None:
    assert set(used) - {"--help"} <= options(name)


def test_every_command_is_in_the_table() -> None:
    told = set(re.findall(r"^\| `dsocr-nvtx ([a-z]+)", README, re.MULTILINE))
    assert told == set(getattr(get_command(app), "commands", {}))


def test_scripts_and_files_that_readme_names_exist() -> None:
    named = set(re.findall(r"(?:nsys_scripts|reports|src)/[\w./-]+\w", EVERYTHING))
    assert named
    assert {path for path in named if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("package", ["duckdb", "polars", "pandas"])
def test_tables_open_in_other_peoples_tools(package: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    (code,) = blocks(package, "python")
    exec(compile(code, f"README {package}", "exec"), {})
    assert "attention" in capsys.readouterr().out


def test_a_notebook_does_what_readme_says(place: Path) -> None:
    pytest.importorskip("torch")
    from dsocr_nvtx.run.capture import RunOptions
    from dsocr_nvtx.run.progress import run_progress
    from dsocr_nvtx.run.workload import prepare

    with run_progress() as progress:
        work = prepare(RunOptions(device="cpu", config="tiny", mode="tiny", max_new_tokens=2), progress)
    inputs = {"input_ids": work.prompt, **work.views.model_inputs(), "max_new_tokens": 2}
    (code,) = blocks("notebook", "python")
    exec(compile(code, "README notebook", "exec"), {"model": work.model, "inputs": inputs})
