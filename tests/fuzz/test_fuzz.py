"""A few hundred damaged inputs of every kind, the same each time; `python -m tests.fuzz --minutes N` tries more."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_damaged_inputs_are_refused_in_a_line_or_answered_right() -> None:
    """In a process of its own: what is forked from it must have no threads."""
    words = [sys.executable, "-m", "tests.fuzz", "--minutes", "0.1"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 with faults" in done.stdout
