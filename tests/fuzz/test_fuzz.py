"""A few hundred damaged inputs of every kind, the same each time; `python -m tests.fuzz --minutes N` tries more."""

import subprocess
import sys
from pathlib import Path

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import join
from tests.fuzz.reports import small

ROOT = Path(__file__).parents[2]


def test_damaged_inputs_are_refused_in_a_line_or_answered_right() -> None:
    """In a process of its own: what is forked from it must have no threads."""
    words = [sys.executable, "-m", "tests.fuzz", "--minutes", "0.05"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 with faults" in done.stdout


def test_the_report_that_is_damaged_is_sound_and_tells_costs_in_every_way(tmp_path: Path) -> None:
    found = join(read(small(tmp_path / "r.sqlite")), "r.sqlite").accounting
    assert not found.set_apart
    assert found.cost_sources["none"] == 0
    assert all(found.cost_sources[source] for source in ("binary", "json", "announcement"))
    assert (found.operations, len(found.devices)) == (72, 2)
