"""What commands must not import: it would cost every user who has it installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from dsocr_nvtx import demo


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
