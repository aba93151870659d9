"""`trace`: written whole, refused in one line."""

import gzip
from pathlib import Path

import pytest

from tests.cli.commands import Commands, hooked
from tests.report.viewer import read_file


@pytest.fixture
def joined(dsocr: Commands, tmp_path: Path) -> Path:
    """Return the directory of a small join."""
    report = hooked().write(tmp_path / "report.sqlite")
    assert dsocr("join", report, "-o", tmp_path / "out").code == 0
    return tmp_path / "out"


def test_a_trace_is_written_packed_or_plain_and_the_same_each_time(dsocr: Commands, joined: Path) -> None:
    folder = joined.parent
    for name in ("a.json", "a.json.gz", "b.json.gz"):
        done = dsocr("trace", joined, "-o", folder / name)
        assert (done.code, done.err) == (0, "")
        assert done.out == f"trace: {folder / name} (open it at https://ui.perfetto.dev)\n"
    packed = (folder / "a.json.gz").read_bytes()
    assert packed == (folder / "b.json.gz").read_bytes()
    assert packed[4:8] == bytes(4), "the time in the header"
    assert gzip.decompress(packed) == (folder / "a.json").read_bytes()
    viewer = read_file(folder / "a.json.gz")
    drawn = [one.name for one in viewer.slices if "event_id" in one.args]
    assert drawn == ["model", "decoder.0.mlp", "lm_head", "nvjet_mlp", "nvjet_head"]
    assert viewer.about["roofs"].startswith("NVIDIA H200")


def test_another_suffix_is_wrong_usage_before_any_work(dsocr: Commands, tmp_path: Path) -> None:
    done = dsocr("trace", tmp_path / "none", "-o", tmp_path / "t.pftrace")
    assert done.code == 2
    assert ".json or .json.gz" in done.err
    assert ".nvtxt" in done.err


def test_what_is_no_joins_directory_is_refused_and_the_old_file_stays(dsocr: Commands, joined: Path) -> None:
    out = joined.parent / "t.json"
    out.write_text("old")
    (joined / "roofline.arrow").write_bytes((joined / "stages.arrow").read_bytes())
    for directory in (joined, joined.parent):
        done = dsocr("trace", directory, "-o", out, "--force")
        assert done.code == 3
        assert len(done.err.splitlines()) == 1
    assert out.read_text() == "old"
