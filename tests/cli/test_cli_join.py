"""`join` writes every table and says the verdict; `demo` is the same code on a real capture."""

import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from attrs import asdict

from dsocr_nvtx.cli.join import default_out
from dsocr_nvtx.cli.join import demo as run_demo
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.hardware import DATASHEET
from dsocr_nvtx.schema.tables import KERNELS, MEASURED, ROOFLINE, STAGES
from tests.builders.nsys import NsysFile
from tests.builders.tables import announcement_v1 as announcement
from tests.cli.commands import Commands, hooked, tree
from tests.fleet.reports import write_report

TABLES = {"kernels": KERNELS, "ranges": MEASURED, "roofline": ROOFLINE, "stages": STAGES}


def tables(folder: Path) -> dict[str, pa.Table]:
    """Return the four tables of a join."""
    return {name: read_table(folder / f"{name}.arrow") for name in TABLES}


def accounts(folder: Path) -> dict[str, Any]:
    """Return the accounting of a join."""
    found: dict[str, Any] = json.loads((folder / "join.json").read_text())
    return found


def test_a_join_writes_every_table_and_the_accounting(dsocr: Commands, tmp_path: Path) -> None:
    done = dsocr("join", hooked().write(tmp_path / "report.sqlite"))
    assert (done.code, done.err) == (0, "")
    assert "decode is waiting for the host" not in done.out  # busy 60 of 99 us
    assert "decode is losing most in inefficient kernels" in done.out
    assert f"tables: {tmp_path / 'report.dsocr'}" in done.out
    folder = tmp_path / "report.dsocr"
    assert tree(folder) == [
        "api_calls.arrow", "host_calls.arrow", "join.json", "kernels.arrow", "kernels_summary.arrow", "ranges.arrow",
        "roofline.arrow", "stages.arrow",
    ]  # fmt: skip
    for name, table in tables(folder).items():
        assert table.schema.equals(TABLES[name]), name
        about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        assert about["device"] == "NVIDIA H200"
        assert about["report"] == "report.sqlite"
        assert len(about["sha256"]) == 64
        assert about["tool"].startswith("nsys ")
        assert about["dsocr_nvtx"]
    found = accounts(folder)
    assert found["operations"] == 2
    assert found["buckets"]["attributed"] == {"operations": 2, "ns": 60_000}
    assert found["devices"][0]["wall_ns"] == 99_000  # from the model's push at 1 us to the last kernel's end at 100 us
    assert found["level"] == "op"


def test_tables_say_what_happened(dsocr: Commands, tmp_path: Path) -> None:
    dsocr("join", hooked().write(tmp_path / "report.sqlite"), "-o", tmp_path / "new" / "out")
    found = tables(tmp_path / "new" / "out")
    assert found["kernels"]["path"].to_pylist() == ["decoder.0.mlp", "lm_head"]
    assert found["ranges"]["path"].to_pylist() == ["model", "decoder.0.mlp", "lm_head"]
    assert found["ranges"]["kv_len"].to_pylist() == [914, 914, 914]
    rows = {(row["module"], row["kind"], row["layer"]): row for row in found["roofline"].to_pylist()}
    assert rows.keys() == {("model", "rest", None), ("decoder", "mlp", 0), ("lm_head", "lm_head", None)}
    assert [row["tensor_flops"] for row in rows.values()].count(0) == 1  # the model's own: 50 - 20 - 30
    (stage,) = found["stages"].to_pylist()
    assert (stage["stage"], stage["steps"], stage["tokens"], stage["tensor_flops"]) == ("decode", 1, 1, 50)
    assert stage["wall_ns"] == sum(row["wall_ns"] for row in rows.values())


@pytest.mark.parametrize(
    ("report", "out"),
    [
        ("a/run.sqlite", "a/run.dsocr"), ("run.nsys-rep", "run.dsocr"), ("run.sqlite.xz", "run.dsocr"),
        ("run.2.sqlite", "run.2.dsocr"), ("run_pqtdir", "run_pqtdir.dsocr"), ("a/run", "a/run.dsocr"),
    ],
)  # fmt: skip
def test_tables_go_beside_the_report_under_its_name(report: str, out: str) -> None:
    assert default_out(Path(report)) == Path(out)


def test_a_report_that_is_the_folder_one_stands_in_has_a_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run_pqtdir" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run_pqtdir" / "inside")
    assert default_out(Path("..")) == tmp_path / "run_pqtdir.dsocr"
    assert default_out(Path()) == tmp_path / "run_pqtdir" / "inside.dsocr"


def bare(*, announced: bool) -> NsysFile:
    """Return the same export without payload columns, as nsys exports by default."""
    file = hooked()
    marks = {"model": 0, "decoder.0.mlp": 1, "lm_head": 2}
    strings = {number: text for text, number in file.strings.items()}
    for row in [row for row in file.rows["NVTX_EVENTS"] if row["eventType"] == 59]:
        blob = row.pop("binaryData")
        assert isinstance(blob, bytes)
        values = [int.from_bytes(blob[at : at + 8], "little", signed=True) for at in range(32, len(blob), 8)]
        path = strings[int(str(row["textId"]))]
        assert values[0] == marks[path]
        if announced:
            file.mark(announcement(path, values), int(str(row["start"])) - 1)
    return file


def test_a_default_export_joins_to_identical_tables(dsocr: Commands, tmp_path: Path) -> None:
    assert dsocr("join", hooked().write(tmp_path / "whole.sqlite")).code == 0
    assert dsocr("join", bare(announced=True).write(tmp_path / "bare.sqlite")).code == 0
    whole, other = tables(tmp_path / "whole.dsocr"), tables(tmp_path / "bare.dsocr")
    for name in TABLES:
        assert whole[name].equals(other[name]), name
    assert accounts(tmp_path / "whole.dsocr")["cost_sources"]["binary"] == 3
    assert accounts(tmp_path / "bare.dsocr")["cost_sources"]["announcement"] == 3
    assert dsocr("join", bare(announced=False).write(tmp_path / "silent.sqlite")).code == 3


def test_a_packed_report_joins_to_identical_tables(dsocr: Commands, tmp_path: Path) -> None:
    plain = hooked().write(tmp_path / "report.sqlite")
    (tmp_path / "packed.sqlite.xz").write_bytes(lzma.compress(plain.read_bytes()))
    assert dsocr("join", plain).code == dsocr("join", tmp_path / "packed.sqlite.xz").code == 0
    one, two = tables(tmp_path / "report.dsocr"), tables(tmp_path / "packed.dsocr")
    assert all(one[name].equals(two[name]) for name in TABLES)


def test_a_name_that_looks_like_markup_is_printed_as_it_is(dsocr: Commands, tmp_path: Path) -> None:
    out = tmp_path / "[bold]x[/y]"
    done = dsocr("join", hooked().write(tmp_path / "report.sqlite"), "-o", out)
    assert done.code == 0
    assert str(out) in done.out


def test_a_hostile_device_name_is_only_text(dsocr: Commands, tmp_path: Path) -> None:
    file = hooked()
    file.rows["TARGET_INFO_GPU"][0]["name"] = "[/red]\x1b[2J\nNVIDIA H200"
    done = dsocr("join", file.write(tmp_path / "report.sqlite"), "--hardware", "NVIDIA H200")
    assert (done.code, done.err.count("\n")) == (0, 1)
    assert "the report is of [/red]\\x1b[2J\\nNVIDIA H200: " in done.err
    assert "\x1b[2J" not in done.out


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a join of the capture that ships with the package."""
    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(out, force=False)
    return out


def test_the_demo_prints_its_verdict(dsocr: Commands) -> None:
    done = dsocr("demo")
    assert (done.code, done.err) == (0, "")
    for stage in ("vision", "prefill", "decode"):
        assert f"\n{stage} is " in done.out
    assert "The 10 rows that lose most" in done.out


def test_the_demo_is_a_whole_run_and_balances(demo: Path) -> None:
    found, kernels = accounts(demo), tables(demo)["kernels"]
    assert found["operations"] == len(kernels)
    assert sum(count["ns"] for count in found["buckets"].values()) == found["total_ns"]
    assert found["covered"] >= 0.99
    assert found["covered_by_leaves"] >= 0.97
    assert found["cost_sources"]["none"] == 0
    for device in found["devices"]:
        assert device["busy_ns"] + sum(device["idle_ns"].values()) == device["wall_ns"]


def test_the_demos_decode_steps_are_whole(demo: Path) -> None:
    ranges = tables(demo)["ranges"].to_pylist()
    decode = [row for row in ranges if row["stage"] == "decode"]
    steps = sorted({row["step"] for row in decode})
    assert steps == list(range(32))
    for step in steps:
        here = [row for row in decode if row["step"] == step]
        layers = [
            row["layer"]
            for row in here
            if row["level"] == "layer" and row["module"] == "decoder" and row["layer"] is not None
        ]
        assert sorted(layers) == list(range(12))
        assert sum(row["path"] == "lm_head" for row in here) == 1
        attention = {row["kv_len"] for row in here if row["kind"] == "attention"}
        assert attention == {913 + step + 1}, "the prompt, and the tokens so far"
    (whole,) = (row for row in ranges if row["stage"] == "prefill" and row["path"] == "model")
    assert (whole["batch"], whole["tokens"]) == (1, 913)


def test_the_demos_rows_add_up_to_its_stages(demo: Path) -> None:
    found = tables(demo)
    for name in ("wall_ns", "busy_owned_ns", "idle_owned_ns", "tensor_flops", "weight_bytes", "calls", "launches"):
        for stage in found["stages"].to_pylist():
            rows = [row for row in found["roofline"].to_pylist() if row["stage"] == stage["stage"]]
            assert sum(row[name] for row in rows) == stage[name], (stage["stage"], name)


def test_roofs_of_another_gpu_are_said_once_and_kept(dsocr: Commands, tmp_path: Path) -> None:
    report, roofs, out = hooked().write(tmp_path / "report.sqlite"), tmp_path / "roofs.json", tmp_path / "report.dsocr"
    roofs.write_text(json.dumps(asdict(DATASHEET["NVIDIA L40S"])))
    note = "roofs are of NVIDIA L40S, the report is of NVIDIA H200: efficiencies and bounds mix both"
    for words in (("--hardware", "NVIDIA L40S"), ("--ceilings", roofs)):
        done = dsocr("join", report, *words, "--force")
        assert (done.code, done.err) == (0, f"dsocr-nvtx: note: {note}\n")
        assert json.loads((out / "join.json").read_text())["notes"] == [note]
        assert note in [caveat["text"] for caveat in json.loads(dsocr("show", out, "--json").out)["caveats"]]
    for own in (["--hardware", "NVIDIA H200"], []):
        done = dsocr("join", report, *own, "--force")
        assert (done.code, done.err, json.loads((out / "join.json").read_text())["notes"]) == (0, "", [])
        assert note not in dsocr("show", out).out


def test_roofs_of_another_gpu_are_a_note_of_a_fleet(dsocr: Commands, tmp_path: Path) -> None:
    reports = [write_report(tmp_path / f"rank-{rank}.sqlite", rank) for rank in range(2)]
    note = "note: roofs are of NVIDIA L40S, the report is of NVIDIA H200"
    words = ("join", *reports, "-o", tmp_path / "out", "--workers", 1, "--hardware")
    for _ in range(2):  # what was joined before has it as well
        assert dsocr(*words, "NVIDIA L40S").out.count(note) == 1
    assert note not in dsocr(*words, "NVIDIA H200").out
