"""What `import dsocr_nvtx` offers to notebooks: functions that stay functions, results that show themselves."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import dsocr_nvtx
from dsocr_nvtx.demo import CAPTURE
from dsocr_nvtx.errors import DsocrError, UsageError
from dsocr_nvtx.report.opened import open_joined


@pytest.fixture(scope="module")
def capture() -> Path:
    return Path(str(resources.files("dsocr_nvtx.demo") / CAPTURE))


def test_names_stay_functions_whatever_rooms_are_loaded_later() -> None:
    code = (
        "import dsocr_nvtx, sys\n"
        "assert 'numpy' not in sys.modules and 'torch' not in sys.modules\n"
        "import dsocr_nvtx.join.engine, dsocr_nvtx.roofline.points\n"
        "from dsocr_nvtx.join import engine\n"
        "import dsocr_nvtx.join.engine as other, dsocr_nvtx.roofline.points as points\n"
        "assert callable(dsocr_nvtx.join) and callable(dsocr_nvtx.roofline) and other is engine and points.Roofline\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_report_is_joined_and_held_against_its_roofs(capture: Path) -> None:
    joined = dsocr_nvtx.join(capture)
    assert len(joined.kernels) == joined.accounting.operations == 26262
    assert repr(joined) == f"{CAPTURE}: 26,262 GPU operations, 26,260 in 5,084 hooked calls"
    assert "26,260" in joined._repr_html_()
    found = dsocr_nvtx.roofline(joined)
    assert repr(found).splitlines()[2].startswith("decode is waiting for the host: ")
    assert sum(found.rows["wall_ns"].to_pylist()) == sum(found.stages["wall_ns"].to_pylist())
    shown = found._repr_html_()
    assert "decoder.0 attention" in shown
    assert "NVIDIA H200" in shown
    assert found.rows.schema.metadata[b"device"] == b"NVIDIA H200"  # as the command line writes it
    faster = dsocr_nvtx.roofline(joined, hardware="NVIDIA H100 80GB HBM3")
    assert faster.found.roofs.device == "NVIDIA H100 80GB HBM3"


def test_a_directory_that_join_wrote_is_opened_as_it_is(capture: Path, demo_out: Path) -> None:
    found = dsocr_nvtx.roofline(demo_out)
    assert found.rows.equals(open_joined(demo_out).roofline.rows)
    assert found.rows.equals(dsocr_nvtx.roofline(capture).rows)
    with pytest.raises(UsageError, match="has its roofs already"):
        dsocr_nvtx.roofline(demo_out, hardware="NVIDIA H200")


def test_hostile_names_are_text_in_a_notebook(hostile_out: Path) -> None:
    found = dsocr_nvtx.roofline(hostile_out)
    assert "<script" not in found._repr_html_()
    assert "&lt;script&gt;" in found._repr_html_()


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DsocrError, match="no such"):
        dsocr_nvtx.join(tmp_path / "absent.sqlite")


def test_a_model_is_hooked() -> None:
    torch = pytest.importorskip("torch")
    with (
        pytest.raises(DsocrError, match="Linear: a module without a configuration"),
        dsocr_nvtx.hook(torch.nn.Linear(2, 2)),
    ):
        pass
