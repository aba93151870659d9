"""`join` of several reports from the command line: exit codes, lines, and what is refused."""

import json
from pathlib import Path

import pytest

from tests.cli.commands import Commands
from tests.fleet.reports import write_report, write_uneven


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Write three ranks."""
    folder = tmp_path / "reports"
    folder.mkdir()
    for rank in range(3):
        write_report(folder / f"rank-{rank}.sqlite", rank)
    return folder


def test_a_quoted_pattern_is_joined_into_one_data_set(dsocr: Commands, reports: Path, tmp_path: Path) -> None:
    done = dsocr("join", reports / "*.sqlite", "-o", tmp_path / "out", "--workers", 2)
    assert done.code == 0, done
    assert "3 of 3 reports joined, 3 of them looked at now" in done.out
    assert (tmp_path / "out" / "fleet.html").is_file()
    again = dsocr("join", reports / "*.sqlite", "-o", tmp_path / "out")
    assert "3 of 3 reports joined, 0 of them looked at now" in again.out


def test_one_damaged_report_is_a_line_and_exit_code_1_each_time(dsocr: Commands, reports: Path, tmp_path: Path) -> None:
    (reports / "bad.sqlite").write_text("no report")
    words = ("join", *sorted(reports.iterdir()), "-o", tmp_path / "out", "--workers", 1)
    done, again = dsocr(*words), dsocr(*words)
    said = f"dsocr-nvtx: 1 of 4 reports could not be joined; the others are; {tmp_path}/out/failed.json says why"
    for one in (done, again):
        assert (one.code, one.err.splitlines()[-1]) == (1, said)
        assert "3 of 4 reports joined" in one.out
    assert (tmp_path / "out" / "fleet.html").is_file()
    assert [line for line in done.out.splitlines() if line.startswith("failed: bad: ")]
    assert json.loads((tmp_path / "out" / "failed.json").read_text())[0]["report"] == "bad"
    (reports / "bad.sqlite").unlink()
    assert dsocr("join", *sorted(reports.iterdir()), "-o", tmp_path / "out", "--workers", 1).code == 0


def test_if_none_could_be_joined_the_exit_code_says_so(dsocr: Commands, reports: Path, tmp_path: Path) -> None:
    for path in reports.iterdir():
        path.write_text("no report")
    done = dsocr("join", reports / "*.sqlite", "-o", tmp_path / "out", "--workers", 1)
    assert done.code == 3
    assert "none of 3 reports could be joined" in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "need -o"), (["-o", "out", "--workers", "1", "--scheduler", "tcp://h:1"], "--workers is for this machine")],
)
def test_what_does_not_go_together_is_wrong_usage(dsocr: Commands, reports: Path, words: list[str], said: str) -> None:
    done = dsocr("join", reports / "*.sqlite", *words)
    assert (done.code, said in done.err) == (2, True), done


def test_a_pattern_without_a_match_is_refused(dsocr: Commands, tmp_path: Path) -> None:
    done = dsocr("join", tmp_path / "*.nsys-rep", "-o", tmp_path / "out")
    assert done.code == 3
    assert "no report matches the pattern" in done.err


@pytest.mark.parametrize("run", ["nowhere", "reports"])
def test_a_wrong_run_directory_is_refused_before_anything_is_written(
    dsocr: Commands, reports: Path, tmp_path: Path, run: str
) -> None:
    done = dsocr("join", *sorted(reports.iterdir()), "--run", tmp_path / run, "-o", tmp_path / "out", "--workers", 1)
    assert (done.code, "no rank's run directory" in done.err) == (3, True), done
    assert not (tmp_path / "out").exists()


def test_unequal_reports_of_rank_0_are_told_with_the_usual_time(dsocr: Commands, tmp_path: Path) -> None:
    folder = write_uneven(tmp_path / "reports")
    done = dsocr("join", folder / "*.sqlite", "-o", tmp_path / "out", "--workers", 1)
    assert "usual ms" in done.out
    assert "32.00" in done.out
    assert "note: decode steps differ, 2 to 4 a rank" in done.out
    assert "decode: r2 takes " in done.out
    assert "rank 0" not in done.out
