"""A directory of another kind than a command takes: refused by what it is, with the command that takes it."""

from pathlib import Path

import pytest

from tests.builders.runs import call, out_of, write_out
from tests.cli.commands import Commands, hooked
from tests.cli.test_cli_refusals import refused
from tests.fleet.reports import write_report

TAKE_A_JOIN = [
    ("show", "X"), ("report", "X"), ("ladder", "X"), ("trace", "X", "-o", "trace.json"), ("diff", "X", "JOINED"),
    ("diff", "JOINED", "X"), ("gate", "X", "--rule", "decode.busy_ns<=1ms"),
    ("gate", "JOINED", "--baseline", "X", "--rule", "decode.busy_ns<=+3%"),
]  # fmt: skip
"""Every command whose input is what `join` wrote."""
each_command = pytest.mark.parametrize("words", TAKE_A_JOIN, ids=" ".join)


def told(dsocr: Commands, folder: Path, words: tuple[str, ...], given: Path) -> str:
    """Return what a command says of a directory in the place of a join's."""
    joined = folder / "joined"
    if "JOINED" in words and not joined.exists():
        write_out(out_of([call(100)]), joined)
    places = {"X": given, "JOINED": joined, "trace.json": folder / "trace.json"}
    return refused(dsocr, folder, *(places.get(word, word) for word in words))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `join` writes of two reports."""
    from dsocr_nvtx.cli.fleet import join_reports

    folder = tmp_path_factory.mktemp("fleet")
    reports = [write_report(folder / f"rank-{rank}.sqlite", rank) for rank in range(2)]
    join_reports(
        reports, run=None, out=folder / "out", hardware=None, ceilings=None, force=False, workers=1, scheduler=None
    )
    return folder / "out"


@each_command
def test_a_fleet_that_was_not_joined_to_its_end_is_refused_and_so_is_a_report_that_it_lacks(
    dsocr: Commands, tmp_path: Path, fleet: Path, words: tuple[str, ...]
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "fleet.json").write_text('{"complete": false}')
    assert told(dsocr, tmp_path, words, begun) == f"{begun}: a fleet whose last join did not end; repeat that join"
    missing = told(dsocr, tmp_path, words, fleet / "rank-7")
    assert missing == f"{fleet / 'rank-7'}: no report of that name in the fleet {fleet}; it has rank-0, rank-1"


@each_command
def test_a_runs_directory_is_to_be_joined_first(dsocr: Commands, tmp_path: Path, words: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    assert told(dsocr, tmp_path, words, run).startswith(f"{run}: a run's directory; dsocr-nvtx join REPORT --run {run}")


@each_command
def test_what_is_no_directory_of_a_join_is_named(dsocr: Commands, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.sqlite").write_text("report")
    for name, found in (
        ("none", "no such directory"),
        ("empty", "no join.json in it"),
        ("file.sqlite", "a file, not "),
    ):
        given = tmp_path / name
        assert told(dsocr, tmp_path, words, given).startswith(f"{given}: {found}")


@each_command
@pytest.mark.parametrize("text", ["{", "[]", "", "\xff"])
def test_a_broken_accounting_is_refused_by_every_command(
    dsocr: Commands, tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    broken = write_out(out_of([call(100)]), tmp_path / "broken")
    (broken / "join.json").write_bytes(text.encode("latin-1"))
    assert f"{broken / 'join.json'}: not the accounting of a join" in told(dsocr, tmp_path, words, broken)


@pytest.mark.parametrize("command", [("join", "X"), ("join", "X", "--force"), ("project", "X", "-o", "out.csv")])
def test_an_output_is_no_report(dsocr: Commands, tmp_path: Path, fleet: Path, command: tuple[str, ...]) -> None:
    joined, run, cupti = (tmp_path / name for name in ("joined", "run", "cupti"))
    write_out(out_of([call(100)]), joined)
    for folder in (run, cupti / "timings"):
        folder.mkdir(parents=True)
    for folder in (run, cupti):
        (folder / "run.json").write_text("{}")
    (cupti / "timings" / "operations.arrow").write_text("no table")

    def said(given: Path) -> str:
        places = {"X": given, "out.csv": tmp_path / "out.csv"}
        return refused(dsocr, tmp_path, *(places.get(word, word) for word in command))

    for given in (joined, fleet):
        assert said(given).startswith(f"{given}: what join wrote, not a report; give the report")
    assert said(run).startswith(f"{run}: a run's directory, not a report; dsocr-nvtx join REPORT --run {run}")
    if command[0] == "project":
        assert said(cupti).startswith(f"{cupti}: a run that CUPTI recorded, without a report; dsocr-nvtx join takes it")


def test_a_wrong_run_is_said_before_the_report_is_read(dsocr: Commands, tmp_path: Path) -> None:
    """There is no report: who looked at it first would complain of that."""
    joined = write_out(out_of([call(100)]), tmp_path / "joined")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "ranks" / "rank-0").mkdir(parents=True)
    for given, found in (
        (tmp_path / "nope", "no such directory; give the directory that the run wrote"),
        (tmp_path / "file", "a file; give the directory that the run wrote"),
        (tmp_path / "empty", "no run's directory: no ranges.arrow in it; give the directory"),
        (joined, "what join wrote, no run's directory; give the directory"),
        (tmp_path / "ranks", f"the directory of several ranks; for one report give its own: {tmp_path}/ranks/rank-0"),
    ):
        assert refused(dsocr, tmp_path, "join", tmp_path / "report.sqlite", "--run", given).startswith(
            f"{given}: {found}"
        )


@pytest.mark.parametrize(("name", "found"), [("nope", "no such file"), ("folder", "a directory")])
def test_a_wrong_ceilings_file_is_said_with_the_command_that_makes_one(
    dsocr: Commands, tmp_path: Path, name: str, found: str
) -> None:
    (tmp_path / "folder").mkdir()
    report, given = hooked().write(tmp_path / "report.sqlite"), tmp_path / name
    said = refused(dsocr, tmp_path, "join", report, "--ceilings", given)
    assert said.startswith(f"{given}: {found}; give the file that dsocr-nvtx ceilings -o FILE.arrow wrote")
    assert found in refused(dsocr, tmp_path, "analytic", "--ceilings", given)
