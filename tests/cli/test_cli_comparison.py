"""`diff` and `gate` at the command line: files, exit codes, and one line for what cannot be compared."""

import json
import lzma
import re
import sqlite3
from contextlib import closing
from importlib import resources
from pathlib import Path

import pytest

from dsocr_nvtx.demo import CAPTURE
from dsocr_nvtx.schema.comparison import COMPARISON, GATE
from dsocr_nvtx.schema.files import read_table
from tests.builders.runs import call, model_call, out_of, write_out
from tests.cli.commands import Commands


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two runs; of the second, one row takes a tenth longer."""
    folder = tmp_path_factory.mktemp("runs")

    def run(busy: int) -> list[dict[str, object]]:
        steps = range(10)
        return [
            one
            for step in steps
            for one in (
                model_call(step, kv_len=100 + step),
                call(busy, 1000, step=step),
                call(70_000, 1000, step=step, kind="gate"),
            )
        ]

    return tuple(write_out(out_of(run(busy)), folder / name) for name, busy in (("a", 100_000), ("b", 110_000)))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tables of the capture inside the package."""
    from dsocr_nvtx.cli.join import demo as join_demo

    out = tmp_path_factory.mktemp("demo") / "out"
    join_demo(out, force=False)
    return out


def test_the_demo_against_itself_is_the_same_on_every_row(dsocr: Commands, demo: Path, tmp_path: Path) -> None:
    done = dsocr("diff", demo, demo, "-o", tmp_path / "diff.arrow")
    table = read_table(tmp_path / "diff.arrow")
    assert (done.code, done.err) == (0, "")
    assert set(table["verdict"].to_pylist()) == {"same"}
    assert len(table) == len(read_table(demo / "roofline.arrow"))
    assert set(table["contribution_ns"].to_pylist()) == {0}
    assert "both were joined from the same report" in done.out


def test_diff_prints_the_verdict_and_json_on_demand(dsocr: Commands, runs: tuple[Path, Path]) -> None:
    done = dsocr("diff", *runs)
    assert done.code == 0
    assert "decode is worse: busy +5.9%" in done.out
    assert "3 rows: 0 better, 1 worse, 2 same, 0 inconclusive" in done.out
    told = json.loads(dsocr("diff", *runs, "--json").out)
    assert told["verdicts"] == {"better": 0, "worse": 1, "same": 2, "inconclusive": 0}
    assert sum(row["contribution_ns"] for row in told["stages"][0]["rows"]) == 10_000


@pytest.mark.parametrize("suffix", [".arrow", ".parquet", ".csv", ".json", ".html", ".md"])
def test_diff_writes_what_the_suffix_names(
    dsocr: Commands, runs: tuple[Path, Path], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"diff{suffix}"
    done = dsocr("diff", *runs, "-o", path)
    assert done.code == 0
    assert f"comparison: {path}" in done.out
    assert path.stat().st_size > 100
    if suffix == ".arrow":
        assert read_table(path).schema.equals(COMPARISON)


def test_an_unknown_suffix_is_a_usage_error_before_anything_is_read(dsocr: Commands, tmp_path: Path) -> None:
    for command in (("diff", "none", "none"), ("gate", "none", "--rule", "decode.busy_ns<=1ms")):
        done = dsocr(*command, "-o", tmp_path / "x.docx")
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        more = ".html, .md, .json, " if command[0] == "diff" else ".md, "
        assert f"no table format is called '.docx'; end the name in {more}.arrow, .parquet, .csv" in done.err


@pytest.mark.parametrize(
    ("rule", "code"), [("decode.busy_ns<=+8%", 0), ("decode.busy_ns<=+3%", 1), ("decode.busy_ns<=+5.5%", 4)]
)
def test_a_gate_ends_with_0_1_or_4(dsocr: Commands, runs: tuple[Path, Path], rule: str, code: int) -> None:
    done = dsocr("gate", runs[1], "--baseline", runs[0], "--rule", rule)
    assert (done.code, done.err) == (code, "")
    assert rule in done.out


def test_a_gate_writes_a_summary_and_a_table(dsocr: Commands, runs: tuple[Path, Path], tmp_path: Path) -> None:
    words = ("gate", runs[1], "--baseline", runs[0], "--rule", "decode.busy_ns<=+3%")
    assert dsocr(*words, "-o", tmp_path / "summary.md").code == 1
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("### The gate does not hold")
    assert dsocr(*words, "--markdown").out.strip() == text.strip()
    assert dsocr(*words, "-o", tmp_path / "gate.arrow").code == 1
    assert read_table(tmp_path / "gate.arrow").schema.equals(GATE)
    assert json.loads(dsocr(*words, "--json").out)["outcome"] == "fail"


def test_a_gate_of_values_needs_no_baseline(dsocr: Commands, runs: tuple[Path, Path]) -> None:
    assert dsocr("gate", runs[0], "--rule", "decode.busy_ns<=1ms", "--rule", "decode.efficiency>=0.0001").code == 0


def test_what_cannot_be_gated_is_said_in_one_line(dsocr: Commands, runs: tuple[Path, Path], tmp_path: Path) -> None:
    for words, code, says in (
        (("gate", runs[0], "--rule", "decode.busy_ns<=+1%"), 2, "--baseline"),
        (("gate", runs[0], "--rule", "decode.speed<=1"), 2, "no metric"),
        (("gate", runs[0], "--rule", "vision.busy_ns<=1ms"), 3, "no stage vision"),
        (("diff", runs[0], tmp_path / "none"), 3, "no such directory"),
        (("diff", runs[0], tmp_path), 3, "no join.json in it"),
    ):
        done = dsocr(*words)
        assert (done.code, len(done.err.splitlines())) == (code, 1), words
        assert says in done.err


def test_levels_do_not_mix(dsocr: Commands, runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_out(out_of([call(1)], about={"level": "stage"}), tmp_path)
    done = dsocr("diff", runs[0], other)
    assert (done.code, len(done.err.splitlines())) == (3, 1)
    assert "level op" in done.err


PLANTED = {
    "nvjet_sm90_tst_16x64_64x16_4x1_v_bz_TNN": 2.0,
    "vectorized_gather_kernel": 0.2,
    "sdpa_sm80_flash_fprop": 1.6,
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tables of the demo's capture in which three kernels take another time."""
    from dsocr_nvtx.cli.join import join_report

    folder = tmp_path_factory.mktemp("planted")
    packed = resources.files("dsocr_nvtx.demo") / CAPTURE
    (folder / "planted.sqlite").write_bytes(lzma.decompress(packed.read_bytes()))
    with closing(sqlite3.connect(folder / "planted.sqlite")) as report:
        for name, factor in PLANTED.items():
            report.execute(
                'UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET "end" = start + CAST(("end" - start) * ? AS INT) '
                "WHERE demangledName IN (SELECT id FROM StringIds WHERE value LIKE ?)",
                (factor, f"%{name}%"),
            )
        report.commit()
    join_report(folder / "planted.sqlite", run=None, out=folder / "out", hardware=None, ceilings=None, force=False)
    return folder / "out"


def test_planted_kernels_are_the_first_three_things_named_in_terminal_page_and_json(
    dsocr: Commands, demo: Path, planted: Path, tmp_path: Path
) -> None:
    """Oracle: what was planted. Nothing but these three is named at all."""
    words = ("nvjet", "gather", "flash")
    text = dsocr("diff", demo, planted, "-o", tmp_path / "d.html").out
    first = [line for line in text.splitlines() if re.match(r"\d\. ", line)][:3]
    assert [word in line for word, line in zip(words, first, strict=True)] == [True] * 3
    assert [re.findall(r": (x[\d.]+), ", line) for line in first] == [["x2.00"], ["x0.20"], ["x1.60"]]
    page = (tmp_path / "d.html").read_text()
    titles = re.findall(r'<th scope="row" class="name"><bdi>([^<]*)</bdi></th><td class="n (?:worse|better)">', page)
    assert [word in title for word, title in zip(words, titles, strict=False)] == [True] * 3
    told = json.loads(dsocr("diff", demo, planted, "--json").out)["causes"]
    assert [word in one["name"] for word, one in zip(words, told, strict=False)] == [True] * 3
    assert {one["name"] for one in told} == {one["name"] for one in told[:3]}
    assert [round(one["factor"], 2) for one in told[:3]] == [2.0, 0.2, 1.6]


def test_a_diff_tells_as_many_causes_of_the_stage_as_it_is_asked_for(
    dsocr: Commands, demo: Path, planted: Path
) -> None:
    told = json.loads(dsocr("diff", demo, planted, "--json", "--limit", "1", "--stage", "decode").out)
    assert [one["stage"] for one in told["stages"]] == ["decode"]
    assert len(told["causes"]) == 1
    by_name = json.loads(dsocr("diff", demo, planted, "--json", "--sort", "name", "--stage", "decode").out)["causes"]
    assert [one["title"] for one in by_name] == sorted(one["title"] for one in by_name)
    done = dsocr("diff", demo, planted, "--stage", "decoding")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "vision, prefill, decode" in done.err
