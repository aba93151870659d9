"""The command line: quick help, exit codes, and the advice on what to type next."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.run.advice import next_command, under_nsys
from dsocr_nvtx.run.options import parse_tiles, run_command

SOURCE = Path(__file__).parents[2] / "src"


def _app() -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command()(run_command)
    return app


def test_help_imports_nothing_slow() -> None:
    code = "import sys; sys.argv = ['run', '--help']; import runpy\n"
    code += "try: runpy.run_module('dsocr_nvtx.run', run_name='__main__')\nexcept SystemExit: pass\n"
    code += "slow = {'torch', 'transformers', 'numpy', 'pyarrow', 'PIL'} & set(sys.modules)\n"
    code += "sys.exit(str(slow) if slow else 0)"
    environment = {"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--max-new-tokens" in done.stdout


@pytest.mark.parametrize("arguments", [["--mode", "huge"], ["--level", "x"], ["--batch", "0"], ["--nonsense"]])
def test_wrong_usage_is_exit_code_two(arguments: list[str]) -> None:
    assert CliRunner().invoke(_app(), arguments).exit_code == 2


def test_tiles_are_columns_by_rows() -> None:
    assert parse_tiles("2x3") == (2, 3)
    assert parse_tiles(None) is None


@pytest.mark.parametrize("text", ["", "2", "x3", "0x3", "2x3x4", "-1x2"])
def test_other_tiles_are_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="COLUMNSxROWS"):
        parse_tiles(text)


@pytest.mark.parametrize(
    ("environment", "profiled"),
    [
        ({}, False),
        ({"NSYS_PROFILING_SESSION_ID": "1"}, True),
        ({"NVTX_INJECTION64_PATH": "/opt/nsys/libToolsInjection64.so"}, True),
        ({"NVTX_INJECTION64_PATH": "/usr/lib/libcupti.so.13"}, False),
    ],
)
def test_nsight_systems_is_recognised(environment: dict[str, str], profiled: bool) -> None:
    assert under_nsys(environment) is profiled


def test_after_a_profiled_run_comes_the_join() -> None:
    command = next_command(Path("runs/a b"), ("x",), capture_range=False, profiled=True)
    assert command == "dsocr-nvtx join <report>.nsys-rep --run 'runs/a b'"


def test_after_an_unprofiled_run_comes_the_same_run_profiled() -> None:
    command = next_command(
        Path("r"), ("/a/bin/dsocr-nvtx", "run", "--mode", "base"), capture_range=True, profiled=False
    )
    assert command.startswith("nsys profile -t cuda,nvtx ")
    assert "--capture-range=cudaProfilerApi" in command
    assert command.endswith("-o report dsocr-nvtx run --mode base")
