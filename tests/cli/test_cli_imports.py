"""What commands must not import: it would cost every user who has it installed. And what their list says."""

import subprocess
import sys
from pathlib import Path

import pytest

from dsocr_nvtx import demo
from tests.cli.commands import Commands


@pytest.mark.parametrize("command", ["join", "project"])
def test_a_command_does_not_import_pandas(command: str, tmp_path: Path) -> None:
    """Arrow imports pandas where that is installed, at the least occasion, which takes longer than a small join."""
    report = Path(demo.__file__).parent / demo.CAPTURE
    out = tmp_path / ("out.arrow" if command == "project" else "out")
    code = "import sys; from dsocr_nvtx.cli.commands import app; app(sys.argv[1:], standalone_mode=False)"
    end = "; print(sorted(name for name in sys.modules if name in ('pandas', 'torch')))"
    words = [sys.executable, "-c", code + end, command, str(report), "-o", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert out.exists()


def test_the_rows_for_nsys_need_no_package_of_the_command_line() -> None:
    """They are printed by a Python that is known to have numpy and pyarrow, and no more."""
    code = "import sys, dsocr_nvtx.cli.nsys_rows; print({'typer', 'rich', 'click'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_help_lists_commands_in_the_order_of_work_and_cuts_none_short(dsocr: Commands) -> None:
    text = dsocr("--help").out
    lines = text.split("Commands:\n")[1].splitlines()
    work = ["demo", "doctor", "ceilings", "run", "join", "show", "report", "ladder", "trace", "diff", "gate"]
    assert [line.split()[0] for line in lines if line][: len(work)] == work
    assert not [line for line in lines if "..." in line]
    assert max(map(len, lines)) <= 80
