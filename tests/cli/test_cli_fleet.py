"""`join` of several reports from the command line: exit codes, lines, and what is refused."""

import json
from pathlib import Path

import pytest

from dsocr_nvtx.cli.fleet import join_reports
from tests.cli.commands import Commands
from tests.fleet.reports import write_report, write_uneven
from tests.report.viewer import read_text


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


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the join of three ranks of ten steps, of which the last waits longer, and of which each is process 7."""
    folder = tmp_path_factory.mktemp("fleet")
    for rank in range(3):
        write_report(
            folder / f"rank-{rank}.sqlite", rank, steps=10, pace=(20 if rank == 2 else 5) * 10**6, busy=9 * 10**5
        )
    join_reports(
        [folder / "*.sqlite"], run=None, out=folder / "out", hardware=None, ceilings=None, force=False, workers=1,
        scheduler=None,
    )  # fmt: skip
    return folder / "out"


def test_show_tells_a_fleet_and_one_of_its_ranks(dsocr: Commands, fleet: Path) -> None:
    whole, one = dsocr("show", fleet), dsocr("show", fleet / "rank-2")
    assert "decode: rank 2 (rank-2) takes 4.00 times the usual time" in whole.out
    assert "The 1 rows that lose most, over all ranks" in whole.out
    assert "decode is" in one.out
    assert "rank-1" not in one.out
    told = json.loads(dsocr("show", fleet, "--json").out)
    assert (told["reports"], [row["rank"] for row in told["ranks"]]) == (3, [2, 0, 1])
    assert told["slow"] == [line for line in whole.out.splitlines() if line.startswith("decode: rank 2")]


def test_report_writes_the_page_of_a_fleet_or_the_review_of_a_rank(
    dsocr: Commands, fleet: Path, tmp_path: Path
) -> None:
    assert dsocr("report", fleet, "-o", tmp_path / "all.html").code == 0
    assert dsocr("report", fleet / "rank-2", "-o", tmp_path / "one.html").code == 0
    assert "3 ranks of 3 reports" in (tmp_path / "all.html").read_text()
    assert len(list((tmp_path / "all-ranks").iterdir())) == 3
    assert "What binds each stage" in (tmp_path / "one.html").read_text()
    refused = dsocr("report", fleet, "-o", tmp_path / "all.svg")
    assert (refused.code, f"name one of them: {fleet / 'rank-0'}" in refused.err) == (3, True)


def test_diff_and_gate_hold_fleets_and_ranks_against_each_other(dsocr: Commands, fleet: Path) -> None:
    same = json.loads(dsocr("diff", fleet, fleet, "--json").out)
    assert same["stages"][0]["total"]["verdict"] == "same"
    assert "times are sums over 3 processes and devices" in " ".join(same["warnings"])
    ranks = dsocr("diff", fleet / "rank-0", fleet / "rank-2")
    assert "decode is worse: idle +365.9%; 5.000 > 20.000 ms a step, 4.00x slower" in ranks.out
    done = dsocr("gate", fleet, "--baseline", fleet, "--rule", "decode.busy_ns<=+3%", "--rule", "decode.wall_ns<=1s")
    assert done.code == 0
    slow = dsocr("gate", fleet, "--rule", "decode.wall_ns<=6ms")
    assert (slow.code, "rank-2, process 7, device 0: the worst of 3" in " ".join(slow.out.split())) == (1, True)


def test_ladder_adds_ranks_up_and_trace_has_each_on_tracks_of_its_own(
    dsocr: Commands, fleet: Path, tmp_path: Path
) -> None:
    assert dsocr("trace", fleet, "-o", tmp_path / "trace.json").code == 0
    viewer = read_text((tmp_path / "trace.json").read_text())
    assert [name for name in viewer.processes.values() if name.startswith("rank-")] == [
        f"rank-{rank}, process 7" for rank in range(3)
    ]
    done = dsocr("ladder", fleet, "-o", tmp_path / "ladder.json")
    now = [line.split() for line in done.out.splitlines() if line.startswith("decode  now")]
    assert [(line[1], line[-1]) for line in now] == [("now", "1")]
    assert len({row["pid"] for row in json.loads((tmp_path / "ladder.json").read_text())}) == 3
