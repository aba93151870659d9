"""Bad input ends in exit code 3 and exactly one line on stderr, with nothing printed and nothing left on disk."""

import json
import lzma
import re
import shutil
import sqlite3
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from attrs import asdict

import dsocr_nvtx
from dsocr_nvtx import __version__
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.hardware import DATASHEET
from dsocr_nvtx.schema.tables import KERNELS
from tests.builders.nsys import NsysFile
from tests.builders.tables import RANGES_V1, Row, filled
from tests.builders.tables import announcement_v1 as announcement
from tests.builders.tables import payload_v1 as payload
from tests.cli.commands import Commands, hooked, tree


def refused(dsocr: Commands, folder: Path, *words: object) -> str:
    """Run a command that must be refused; return its one line."""
    before = tree(folder)
    done = dsocr(*words)
    assert (done.code, done.out) == (3, ""), done
    assert done.err.endswith("\n")
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("dsocr-nvtx: ")
    assert "Traceback" not in done.err
    assert tree(folder) == before
    assert not tree(folder.parent / f"{folder.name}-temporary")
    return done.err.removeprefix("dsocr-nvtx: ").rstrip("\n")


def _text(path: Path) -> None:
    path.write_text("a letter, not a report\n")


def _truncated(path: Path) -> None:
    hooked().write(path)
    path.write_bytes(path.read_bytes()[:-5000])


def _one_page_short(path: Path) -> None:
    hooked().write(path)
    path.write_bytes(path.read_bytes()[:-100])


def _header_only(path: Path) -> None:
    hooked().write(path)
    path.write_bytes(path.read_bytes()[:100])


def _damaged(path: Path) -> None:
    hooked().write(path)
    raw = bytearray(path.read_bytes())
    raw[4096:] = b"\xff" * (len(raw) - 4096)
    path.write_bytes(raw)


def _another_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (id INTEGER)")
    connection.close()


def _without_cuda(path: Path) -> None:
    file = hooked()
    for table in [name for name in file.rows if name.startswith("CUPTI")]:
        del file.rows[table]
    file.write(path)


def _without_ranges(path: Path) -> None:
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1, "somebody")
    file.push_pop("decoder", 0, 100)
    file.launch("gemm", 10, 20, 30)
    file.write(path)


def _without_nvtx(path: Path) -> None:
    file = NsysFile()
    file.device(pids=[1])
    file.launch("gemm", 10, 20, 30)
    file.write(path)


def _without_costs(path: Path) -> None:
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.push_pop("decoder", 0, 100)
    file.launch("gemm", 10, 20, 30)
    file.write(path)


def _unknown_gpu(path: Path) -> None:
    file = hooked()
    file.rows["TARGET_INFO_GPU"][0]["name"] = "NVIDIA Imaginary"
    file.write(path)


def _nameless_gpu(path: Path) -> None:
    file = hooked()
    del file.rows["TARGET_INFO_GPU"]
    file.write(path)


def _contradicting(path: Path) -> None:
    file = hooked()
    values = payload(event_id=1, kind=4, level=2, layer=0, tensor_flops=21, weight_bytes=9, stage=2, kv_len=914)
    file.mark(announcement("decoder.0.mlp", values), 9_999)
    file.write(path)


def _parts_beyond_the_whole(path: Path) -> None:
    file = hooked()
    file.push_pop("lm_head", 81_000, 82_000, values=payload(event_id=3, stage=2, kind=12, level=1, tensor_flops=7))
    file.write(path)


def _one_id_for_two(path: Path) -> None:
    file = hooked()
    file.push_pop("lm_head", 91_000, 92_000, values=payload(event_id=2, stage=2, kind=12, level=1, tensor_flops=7))
    file.write(path)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "a directory without"),
        (Path.touch, "empty file"),
        (_text, "not a SQLite file"),
        (_truncated, "damaged"),
        (_one_page_short, "damaged"),
        (_header_only, "damaged"),
        (_damaged, "damaged"),
        (_another_database, "not an Nsight Systems export"),
        (_without_cuda, "no CUDA work"),
        (_without_ranges, "no range of NVTX domain `dsocr`"),
        (_without_nvtx, "no range of NVTX domain `dsocr`"),
        (_without_costs, "no range in the report has a cost"),
        (_contradicting, "two costs for one range: tensor_flops of decoder.0.mlp is 20 and 21"),
        (_parts_beyond_the_whole, "the ranges inside model cost more than model itself"),
        (_one_id_for_two, "event id 2 of process 1 stands for two calls"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_report_that_cannot_be_joined(
    dsocr: Commands, tmp_path: Path, make: Callable[[Path], object], found: str
) -> None:
    report = tmp_path / "report.sqlite"
    make(report)
    said = refused(dsocr, tmp_path, "join", report)
    assert said.startswith(f"{report}: ")
    assert found in said


@pytest.mark.parametrize("make", [_unknown_gpu, _nameless_gpu])
def test_a_gpu_whose_roofs_are_not_known_is_joined_without_a_verdict_until_they_are_named(
    dsocr: Commands, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    report, roofs = tmp_path / "report.sqlite", tmp_path / "roofs.json"
    make(report)
    done = dsocr("join", report)
    assert (done.code, done.err) == (0, "")
    assert "none are known for " in done.out
    assert "--ceilings FILE" in done.out
    assert "decode is not judged" in done.out
    rows = read_table(tmp_path / "report.dsocr" / "roofline.arrow")
    assert sum(rows["wall_ns"].to_pylist()) > 0
    assert set(rows["bound"].to_pylist()) == {None}
    for command in ("show", "ladder"):
        assert dsocr(command, tmp_path / "report.dsocr").code == 0
    assert dsocr("report", tmp_path / "report.dsocr", "-o", tmp_path / "review.html").code == 0
    assert "no roofs" in refused(dsocr, tmp_path, "join", report, "--hardware", "NVIDIA Also Imaginary", "--force")
    roofs.write_text(json.dumps(asdict(DATASHEET["NVIDIA L40S"])))
    assert dsocr("join", report, "--ceilings", roofs, "--force").code == 0
    assert dsocr("join", report, "--hardware", "NVIDIA H200", "--force").code == 0


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"bandwidth": ...}, "field 'bandwidth' is missing"),
        ({"bandwith": 1}, "unknown field 'bandwith'"),
        ({"bandwidth": "4.8 TB/s"}, "field 'bandwidth' is '4.8 TB/s'"),
        ({"tensor": {"float16": 10**15}}, "no matrix rate for bfloat16"),
        ({"device": "two\nlines"}, "no matrix rate"),
    ],
)
def test_a_ceilings_file_that_does_not_fit(
    dsocr: Commands, tmp_path: Path, change: dict[str, object], found: str
) -> None:
    report, roofs = hooked().write(tmp_path / "report.sqlite"), tmp_path / "roofs.json"
    content = {**asdict(DATASHEET["NVIDIA H200"]), **change}
    if "device" in change:
        content["tensor"] = {"float16": 1}
    roofs.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))
    assert found in refused(dsocr, tmp_path, "join", report, "--ceilings", roofs)


def test_a_ceilings_file_that_is_not_there(dsocr: Commands, tmp_path: Path) -> None:
    report = hooked().write(tmp_path / "report.sqlite")
    assert "no such file" in refused(dsocr, tmp_path, "join", report, "--ceilings", tmp_path / "no.json")


def test_an_output_in_use_is_replaced_only_when_told_and_only_if_ours(dsocr: Commands, tmp_path: Path) -> None:
    report = hooked().write(tmp_path / "report.sqlite")
    assert dsocr("join", report).code == 0
    assert "--force" in refused(dsocr, tmp_path, "join", report)
    assert dsocr("join", report, "--force").code == 0
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("years of work")
    assert "--force" in refused(dsocr, tmp_path, "join", report, "-o", theirs)
    assert "none of ours" in refused(dsocr, tmp_path, "join", report, "-o", theirs, "--force")
    assert "a file" in refused(dsocr, tmp_path, "join", report, "-o", report, "--force")
    assert "a file" in refused(dsocr, tmp_path, "demo", "-o", report)


def test_a_failed_join_leaves_the_earlier_one(dsocr: Commands, tmp_path: Path) -> None:
    report = hooked().write(tmp_path / "report.sqlite")
    assert dsocr("join", report).code == 0
    before = (tmp_path / "report.dsocr" / "join.json").read_bytes()
    _without_costs(report)
    assert "no range in the report has a cost" in refused(dsocr, tmp_path, "join", report, "--force")
    assert (tmp_path / "report.dsocr" / "join.json").read_bytes() == before


RECORDED: list[Row] = [
    {"event_id": 0, "tensor_flops": 50, "weight_bytes": 9, "kv_len": 914},
    {"event_id": 1, "tensor_flops": 20, "weight_bytes": 9, "kv_len": 914},
    {"event_id": 2, "tensor_flops": 30, "kv_len": 914},
]


def _run(folder: Path, rows: list[Row]) -> Path:
    from dsocr_nvtx.schema.files import write_table

    write_table(filled(RANGES_V1, rows), folder / "ranges.arrow")
    return folder


def test_a_run_directory_is_checked_against_the_report(dsocr: Commands, tmp_path: Path) -> None:
    report = hooked().write(tmp_path / "report.sqlite")
    same = _run(tmp_path / "same", RECORDED)
    assert dsocr("join", report, "--run", same).code == 0
    shutil.rmtree(tmp_path / "report.dsocr")
    other = _run(tmp_path / "other", [*RECORDED[:2], {**RECORDED[2], "tensor_flops": 31}])
    assert "its tensor_flops differ" in refused(dsocr, tmp_path, "join", report, "--run", other)
    shorter = _run(tmp_path / "shorter", RECORDED[:2])
    assert "this run did not record" in refused(dsocr, tmp_path, "join", report, "--run", shorter)
    (same / "ranges.arrow").write_text("no table")
    assert "not an Arrow IPC file" in refused(dsocr, tmp_path, "join", report, "--run", same)


def test_a_table_that_is_no_runs_is_refused(dsocr: Commands, tmp_path: Path) -> None:
    from dsocr_nvtx.schema.files import write_table

    report = hooked().write(tmp_path / "report.sqlite")
    write_table(filled(KERNELS, []), tmp_path / "run" / "ranges.arrow")
    assert "no run's ranges" in refused(dsocr, tmp_path, "join", report, "--run", tmp_path / "run")


@pytest.mark.parametrize("name", [".", "/", ".."])
def test_a_directory_without_tables_is_no_report(
    dsocr: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refused(dsocr, tmp_path, "join", name)


def test_a_line_end_in_a_name_is_no_second_line(dsocr: Commands, tmp_path: Path) -> None:
    said = refused(dsocr, tmp_path, "join", tmp_path / "two\nlines\x1b[31m.sqlite")
    assert "two\\nlines\\x1b[31m.sqlite: no such file" in said


def test_a_packed_file_is_refused_by_its_own_name(dsocr: Commands, tmp_path: Path) -> None:
    packed = tmp_path / "report.sqlite.xz"
    packed.write_bytes(lzma.compress(b"text"))
    assert refused(dsocr, tmp_path, "join", packed).startswith(f"{packed}: ")


def test_a_disk_that_refuses_is_one_line_too(dsocr: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = hooked().write(tmp_path / "report.sqlite")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "kernels.arrow")

    monkeypatch.setattr(import_module("dsocr_nvtx.roofline.joined"), "write_table", full)
    assert refused(dsocr, tmp_path, "join", report) == "kernels.arrow: No space left on device"


@pytest.mark.parametrize(
    "words", [["join"], ["join", "a", "b"], ["nonsense"], ["join", "a", "--nonsense"], ["demo", "--hardware", "x"]]
)
def test_wrong_usage_is_exit_code_two(dsocr: Commands, tmp_path: Path, words: list[str]) -> None:
    done = dsocr(*words)
    assert (done.code, done.out) == (2, "")
    assert "Usage: dsocr-nvtx" in done.err


def test_a_report_that_is_not_there_is_said_before_an_output_in_use(dsocr: Commands, tmp_path: Path) -> None:
    (tmp_path / "eager.dsocr").mkdir()
    (tmp_path / "eager.dsocr" / "mine").touch()
    done = dsocr("join", tmp_path / "eager.nsys-rep")
    assert (done.code, "eager.nsys-rep: no such file" in done.err) == (3, True)
    assert (tmp_path / "eager.dsocr" / "mine").exists()


def test_a_ladder_takes_no_file_that_says_nothing_of_launching(dsocr: Commands, demo_out: Path) -> None:
    for name in ("nope", "nope.json", "join.json"):
        done = dsocr("ladder", demo_out, "--ceilings", demo_out / name)
        assert (done.code, done.out) == (3, "")
        assert f"{name}: no table that `ceilings` wrote" in done.err
    assert dsocr("ladder", demo_out, "--ceilings", demo_out / "nope.arrow").code == 3


def test_the_version_is_printed(dsocr: Commands) -> None:
    assert dsocr("--version").out == f"dsocr-nvtx {__version__}\n"


def test_every_extra_that_is_to_be_installed_is_quoted_for_shells() -> None:
    """zsh takes brackets for a pattern. A command's advice is pasted as it stands."""
    package = Path(dsocr_nvtx.__file__).parent
    files = package.rglob("*.py")
    told = [text for path in files for text in re.findall(r"pip install [^\n]*\[\w+\].?", path.read_text())]
    assert len(told) > 4
    assert [text for text in told if not re.search(r"'dsocr-nvtx(\[\w+\]|\{extra\})'", text)] == []
