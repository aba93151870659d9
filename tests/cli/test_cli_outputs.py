"""Every command that writes a file leaves one that is there alone, and says so before any work, until told not to.

The commands are those of the command table: one with -o that neither table below names fails here.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pyarrow as pa
import pytest
from typer.main import get_command

from dsocr_nvtx.cli.commands import app
from dsocr_nvtx.demo import CAPTURE
from dsocr_nvtx.schema.gauges import CEILINGS
from tests.builders.tables import filled
from tests.cli.commands import Commands, tree
from tests.cli.test_cli_refusals import refused
from tests.test_layers import BLOCK, HEAVY

RULE = "decode.busy_ns<=1000000ms"
FILES: dict[str, tuple[str, list[str]]] = {
    "analytic": ("page.csv", ["--mode", "tiny", "--decode-tokens", "1"]),
    "ceilings": ("ceilings.arrow", []),
    "diff": ("diff.html", ["JOINED", "JOINED"]),
    "gate": ("gate.md", ["JOINED", "--rule", RULE]),
    "ladder": ("ladder.arrow", ["JOINED"]),
    "overhead": (
        "overhead.json",
        ["--config", "tiny", "--mode", "tiny", "--device", "cpu", "--rounds", "8", "--level", "layer"],
    ),
    "project": ("projection.csv", ["REPORT"]),
    "report": ("review.html", ["JOINED"]),
    "trace": ("trace.json.gz", ["JOINED"]),
}
"""Commands whose -o is a file: its name, and what else they are called with."""
DIRECTORIES = {"demo", "join", "run"}
"""Commands whose -o is a directory; what they replace is `check_directory`'s to say."""
MORE_SUFFIXES = {
    "diff": [".arrow", ".json", ".md"],
    "gate": [".arrow"],
    "report": [".svg"],
    "trace": [".json", ".nvtxt"],
}
"""Of commands with several ways to write, a name for each of the other ways."""
WRITES = [
    *((name, file) for name, (file, _) in FILES.items()),
    *((name, f"x{suffix}") for name, suffixes in MORE_SUFFIXES.items() for suffix in suffixes),
]


def options(name: str) -> set[str]:
    """Return every option that a subcommand has."""
    return {option for parameter in get_command(app).commands[name].params for option in parameter.opts}  # type: ignore[attr-defined]


def test_every_command_with_an_output_is_known_and_has_force() -> None:
    writing = {name for name in get_command(app).commands if "-o" in options(name)}  # type: ignore[attr-defined]
    assert writing == FILES.keys() | DIRECTORIES
    assert {name for name in writing if "--force" not in options(name)} == set()


def _file(path: Path) -> None:
    path.write_bytes(b"years\r\nof work\x00")


def _link(path: Path) -> None:
    _file(path.with_name("theirs"))
    path.symlink_to("theirs")


def _link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def _directory(path: Path) -> None:
    path.mkdir()
    _file(path / "theirs")


@pytest.mark.parametrize(
    ("make", "found", "remedy"),
    [
        (_file, "a file is there already", "name another, or replace it with --force"),
        (_link, "a link is there already", "name another, or replace it with --force"),
        (_link_to_nothing, "a link is there already", "name another, or replace it with --force"),
        (_directory, "a directory", "name a file"),
    ],
)
@pytest.mark.parametrize(("command", "file"), WRITES)
def test_what_is_there_is_refused_before_any_work(
    dsocr: Commands, tmp_path: Path, command: str, file: str, make: Callable[[Path], None], found: str, remedy: str
) -> None:
    """No input exists here, and no GPU needs to: a command that looked at either would complain of that instead."""
    out, absent = tmp_path / file, tmp_path / "absent"
    make(out)
    before = out.lstat()
    words = [absent if word in ("JOINED", "REPORT") else word for word in FILES[command][1]]
    words = ["cuda:99" if word == "cpu" else word for word in words]
    if command == "analytic":
        words += ["--config", absent]
    assert refused(dsocr, tmp_path, command, *words, "-o", out) == f"{out}: {found}; {remedy}"
    after = out.lstat()
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)
    kept = [path for path in (out, out.with_name("theirs"), out / "theirs") if path.is_file()]
    assert all(path.read_bytes() == b"years\r\nof work\x00" for path in kept)
    if make is _directory:
        assert refused(dsocr, tmp_path, command, *words, "-o", out, "--force") == f"{out}: {found}; {remedy}"


@pytest.mark.parametrize(
    ("command", "words", "file"), [(name, FILES[name][1], file) for name, file in WRITES] + [
        ("demo", [], "out"), ("join", ["REPORT"], "out"), ("join", ["REPORT", "REPORT"], "out"),
        ("run", ["--device", "cuda:99"], "run"), ("analytic", ["--mode", "tiny", "--report", "PLACE"], "x.csv"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_is_refused_by_the_users_name_before_any_work(
    dsocr: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: list[str], file: str
) -> None:
    """Reports are there, empty, since a report that is missing is said first."""
    if command == "run":
        pytest.importorskip("torch")
    report, above = tmp_path / "report.sqlite", tmp_path / "above"
    for path in (report, above):
        path.touch()
    for out in (above / file, above / "below" / file):
        given = {"JOINED": tmp_path / "absent", "REPORT": report, "PLACE": out, "cpu": "cuda:99"}
        line = [given.get(word, word) for word in words] + ([] if "PLACE" in words else ["-o", out])
        said = refused(dsocr, tmp_path, command, *line)
        assert said == f"{out}: {above} is a file, not a directory; name a place that you can write to"
    above.unlink()
    above.mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    said = refused(dsocr, tmp_path, command, *line)
    assert said == f"{out}: no permission to write in {above}; name a place that you can write to"


@pytest.mark.parametrize("command", ["ceilings", "overhead"])
def test_the_refusal_comes_before_torch_is_imported(tmp_path: Path, command: str) -> None:
    out = tmp_path / FILES[command][0]
    _file(out)
    code = BLOCK.format(names=HEAVY) + "from dsocr_nvtx.cli import main; main()"
    words = [sys.executable, "-c", code, command, "-o", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    said = f"dsocr-nvtx: {out}: a file is there already; name another, or replace it with --force\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, "", said)


def test_a_file_that_came_during_the_measurement_stays_and_the_roofs_are_on_the_screen(
    dsocr: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "ceilings.arrow"

    def overtaken(*_: object, **__: object) -> pa.Table:
        _file(out)
        words = {"quantity": "read", "regime": "burst", "shape": "", "kernel": "sum", "unit": "B/s"}
        return filled(CEILINGS, [{**words, "median": 4.25e12, "is_roof": True}])

    monkeypatch.setattr("dsocr_nvtx.measure.ceilings.measure_ceilings", overtaken)
    done = dsocr("ceilings", "-o", out)
    assert (done.code, len(done.err.splitlines())) == (3, 1)
    assert "--force" in done.err
    assert "4,250.00" in done.out
    assert tree(tmp_path) == ["ceilings.arrow"]
    assert out.read_bytes() == b"years\r\nof work\x00"


@pytest.mark.parametrize("make", [_file, _link, _link_to_nothing])
@pytest.mark.parametrize("command", FILES)
def test_force_replaces_the_file_or_the_link_and_nothing_else(
    dsocr: Commands, demo_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str,
    make: Callable[[Path], None],
) -> None:  # fmt: skip
    if command in ("ceilings", "overhead"):
        pytest.importorskip("torch")
    if command == "ceilings":
        monkeypatch.setattr("dsocr_nvtx.measure.ceilings.measure_ceilings", lambda *_, **__: filled(CEILINGS, []))
    out = tmp_path / FILES[command][0]
    make(out)
    before = tree(tmp_path)
    with resources.as_file(resources.files("dsocr_nvtx.demo") / CAPTURE) as report:
        given = {"JOINED": demo_out, "REPORT": report}
        done = dsocr(command, *(given.get(word, word) for word in FILES[command][1]), "-o", out, "--force")
    assert done.code == 0, done.err
    assert tree(tmp_path) == before
    assert not out.is_symlink()
    assert out.stat().st_size > 100
    if make is _link:
        assert (tmp_path / "theirs").read_bytes() == b"years\r\nof work\x00"


def test_the_analytic_report_goes_where_nothing_is_or_over_an_earlier_one(dsocr: Commands, tmp_path: Path) -> None:
    words = ["analytic", "--mode", "tiny", "--decode-tokens", "1", "--report", tmp_path / "model"]
    assert dsocr(*words).code == 0
    assert "replace it with --force" in refused(dsocr, tmp_path, *words)
    (tmp_path / "model" / "report.yaml").unlink()
    assert dsocr(*words, "--force").code == 0
    assert (tmp_path / "model" / "report.yaml").stat().st_size
    (tmp_path / "model" / "report.json").unlink()
    assert "none of ours" in refused(dsocr, tmp_path, *words, "--force")
