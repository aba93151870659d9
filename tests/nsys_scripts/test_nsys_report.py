"""The report script for nsys: its rows are the join's; what keeps it from them is one line."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsocr_nvtx.cli.join import join_report
from dsocr_nvtx.cli.nsys_rows import literal, main
from dsocr_nvtx.schema.files import read_table
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload_v1 as payload
from tests.cli.commands import hooked

SCRIPTS = Path(__file__).parents[2] / "nsys_scripts"
# As in nsys: `subprocess` cannot be imported, and the script's folder is not the working directory.
EMBEDDED = (
    "import sys, runpy; sys.modules['_posixsubprocess'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
)


def nsys_stats(report: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script as nsys does, with the stand-in for nsysstats."""
    found = {**os.environ, "DSOCR_PYTHON": sys.executable, **environment, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", EMBEDDED, str(SCRIPTS / "dsocr_roofline.py"), str(report), *arguments]
    return subprocess.run(
        command, env=found, capture_output=True, text=True, check=False, timeout=120, cwd=report.parent
    )


def test_the_rows_are_those_of_the_roofline_table(tmp_path: Path) -> None:
    report = hooked().write(tmp_path / "report.sqlite")
    join_report(report, run=None, out=tmp_path / "out", hardware=None, ceilings=None, force=False)
    done = nsys_stats(report)
    assert done.returncode == 0, done.stderr
    got = list(csv.DictReader(done.stdout.splitlines()))
    titles = {
        "stage": "Stage", "module": "Module", "kind": "Kind", "layer": "Layer", "calls": "Calls", "bound": "Bound",
        "launches": "Launches", "wall_ns": "Wall:dur_ns", "busy_owned_ns": "Busy:dur_ns", "pid": "PID",
        "idle_owned_ns": "Idle:dur_ns", "roofline_ns": "Roofline:dur_ns", "lost_ns": "Lost:dur_ns", "device": "GPU",
    }  # fmt: skip
    want = read_table(tmp_path / "out" / "roofline.arrow").to_pylist()
    assert len(want) == 3
    for row, shown in zip(want, got, strict=True):
        assert {n: "" if row[n] is None else str(row[n]) for n in titles} == {n: shown[t] for n, t in titles.items()}
        share = shown["Efficiency:ratio_%"]
        assert share == "" if row["efficiency"] is None else float(share) == round(100 * row["efficiency"], 2)


def test_a_gpu_can_be_named(tmp_path: Path) -> None:
    file = hooked()
    values = payload(event_id=9, kind=12, level=1, stage=2, weight_bytes=10**9, batch=1, tokens=1)
    file.push_pop("lm_head", 92_000, 96_000, values=values)
    file.launch("gemm", 93_000, 110_000, 900_000_000)
    report = file.write(tmp_path / "report.sqlite")
    done = nsys_stats(report, "hardware=NVIDIA H100 80GB HBM3")
    assert done.returncode == 0, done.stderr
    assert done.stdout != nsys_stats(report).stdout
    refused = nsys_stats(report, "hardware=abacus {0}")
    assert refused.returncode == 1
    assert "abacus {0}" in refused.stderr


def test_a_report_without_our_ranges_is_refused_in_one_line(tmp_path: Path) -> None:
    file = NsysFile()
    file.device(pids=[1])
    file.launch("gemm", 110, 120, 150)
    file.push_pop("stranger", 100, 200)
    done = nsys_stats(file.write(tmp_path / "report.sqlite"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no range of NVTX domain" in done.stderr


def test_a_python_that_cannot_join_is_named_and_how_to_name_another(tmp_path: Path) -> None:
    report = hooked().write(tmp_path / "report.sqlite")
    missing = nsys_stats(report, DSOCR_PYTHON=str(tmp_path / "python"))
    bare = tmp_path / "bare"
    bare.write_text(f"#!/bin/sh\nexec {sys.executable} -I -S -c \"raise SystemExit('no numpy here')\"\n")
    bare.chmod(0o755)
    for done in (missing, nsys_stats(report, DSOCR_PYTHON=str(bare))):
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.strip().splitlines()) == 1
        assert "set DSOCR_PYTHON to a Python" in done.stderr
    assert "No such file" in missing.stderr


def test_a_filter_of_time_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    done = nsys_stats(hooked().write(tmp_path / "report.sqlite"), "start=5")
    assert done.returncode == 1
    assert "whole reports" in done.stderr


def test_a_python_without_numpy_is_said_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "dsocr_nvtx.roofline.joined", None)
    assert main(["report.sqlite"]) == 1
    assert "has no dsocr_nvtx.roofline.joined; set DSOCR_PYTHON" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["plain", "it's", "a\nb", "a\0b", "query SELECT 1", "\u202eright", "'); DROP TABLE x; --"]
)
def test_text_is_text_in_sql_and_stays_on_its_line(text: str) -> None:
    import sqlite3

    written = literal(text)
    assert "\n" not in written
    value = sqlite3.connect(":memory:").execute(f"SELECT {written}").fetchone()[0]
    assert value == text


def test_without_arguments_it_says_how_it_is_used() -> None:
    command = [sys.executable, str(SCRIPTS / "dsocr_roofline.py")]
    found = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, env=found, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.startswith("dsocr_roofline[:hardware=<name>][:ceilings=<file>] -- DeepSeek-OCR Roofline\n")
