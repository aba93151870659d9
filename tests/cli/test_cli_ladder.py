"""`ladder` on a join's directory: printed, written, refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from dsocr_nvtx.cli.ladder import climb
from dsocr_nvtx.errors import Refused, UsageError
from dsocr_nvtx.schema.files import read_table, write_json, write_table
from dsocr_nvtx.schema.tables import KERNELS, STAGES
from tests.builders.tables import filled
from tests.roofline.test_ladder import STAGE, THREE


def joined(folder: Path) -> Path:
    """Write the two tables that a ladder needs, and what tells a join's directory."""
    write_json({}, folder / "join.json")
    write_table(filled(KERNELS, THREE), folder / "kernels.arrow")
    write_table(filled(STAGES, [STAGE]), folder / "stages.arrow")
    return folder


def test_a_ladder_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    climb(joined(tmp_path), out=tmp_path / "ladder.arrow", ceilings=None)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("decode", "no_stall", "graph", "fused", "roof", "tax kernels"))
    assert len(read_table(tmp_path / "ladder.arrow")) == 5
    for suffix in (".json", ".csv", ".parquet"):
        climb(tmp_path, out=tmp_path / f"ladder{suffix}", ceilings=None)
        assert (tmp_path / f"ladder{suffix}").stat().st_size


def test_what_is_no_joins_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no join\.json in it"):
        climb(tmp_path, out=None, ceilings=None)
    joined(tmp_path)
    (tmp_path / "kernels.arrow").write_bytes((tmp_path / "stages.arrow").read_bytes())
    with pytest.raises(Refused, match="no column stream; name a directory that dsocr-nvtx join wrote"):
        climb(tmp_path, out=None, ceilings=None)


def test_a_suffix_of_no_format_is_wrong_usage_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        climb(tmp_path, out=tmp_path / "ladder.txt", ceilings=None)


def test_ceilings_without_a_gpu_end_in_one_line_and_exit_code_three(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    code = "from dsocr_nvtx.cli import main; main()"
    command = [sys.executable, "-c", code, "ceilings", "-o", str(tmp_path / "c.arrow")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no CUDA device" in done.stderr


def test_ceilings_and_doctor_where_torch_is_not_installed(tmp_path: Path) -> None:
    from tests.test_layers import BLOCK, HEAVY

    block = BLOCK.format(names=HEAVY) + "from dsocr_nvtx.cli import main; main()"
    command = [sys.executable, "-c", block, "ceilings", "-o", str(tmp_path / "c.arrow")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1
    assert "pip install 'dsocr-nvtx[run]'" in done.stderr
    command = [sys.executable, "-c", block, "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "NVML" in done.stdout
