"""NVTXT: one range per call that owns GPU time, at the report's own nanoseconds; what it cannot hold is replaced."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dsocr_nvtx.cli.join import demo, join_report
from dsocr_nvtx.cli.trace import write_trace
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.report.nvtxt import COLOURS, FIRST_ROW, nvtxt_text, plain
from dsocr_nvtx.roofline.rates import rates
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.tables import KERNELS, MEASURED
from tests.builders.tables import filled
from tests.cli.commands import hooked
from tests.roofline.test_rates import CALLS, OPERATIONS
from tests.roofline.test_roofline_points import points

LINE = re.compile(r'RangeStartEnd, (\d+), (\d+), (\d+), (\d+), 0x([0-9A-F]{8}), "([^"\\]*)"')


def written(folder: Path) -> list[tuple[int, int, int, int, int, str]]:
    """Return every range of the NVTXT file of a join: start, end, process, thread, colour, text."""
    write_trace(folder, folder / "t.nvtxt")
    text = (folder / "t.nvtxt").read_text(encoding="utf-8").splitlines()
    head = [line for line in text if not LINE.fullmatch(line)]
    assert head == [
        "# made by dsocr-nvtx trace",
        'SetFileDisplayName, "dsocr-nvtx"',
        "@RangeStartEnd, Start, End, ProcessId, ThreadId, Color, Message",
        "TimeBase = Relative",
    ]
    found = [match for line in text if (match := LINE.fullmatch(line))]
    return [(int(m[1]), int(m[2]), int(m[3]), int(m[4]), int(m[5], 16), m[6]) for m in found]


def test_a_step_by_hand(tmp_path: Path) -> None:
    report = hooked().write(tmp_path / "r.sqlite")
    join_report(report, run=None, out=tmp_path / "o", hardware=None, ceilings=None, force=False)
    row, mlp, head = written(tmp_path / "o")
    assert row[:4] == (30_000, 100_000, 1, FIRST_ROW)
    assert row[5].startswith("roofline of GPU 0")
    # Of 30 us each: 20 FLOP and 9 B of the MLP, 30 FLOP of the head; the device waits 40 us of the step for the host.
    assert mlp[:4] == (30_000, 60_000, 1, FIRST_ROW)
    assert mlp[5] == "decode decoder.0.mlp: inefficient, 0.0% of the roof, 6.67e-07 TFLOP/s, 0.0003 GB/s"
    assert mlp[4] == COLOURS["inefficient"]
    assert head[5].startswith("decode lm_head: ")


def test_every_call_with_gpu_time_is_there_from_its_first_operation_to_its_last(tmp_path: Path) -> None:
    demo(tmp_path / "o", force=False)
    kernels, ranges = (read_table(tmp_path / "o" / f"{name}.arrow").to_pylist() for name in ("kernels", "ranges"))
    paths = {row["event_id"]: f"{row['stage']} {row['path']}" for row in ranges}
    spans: dict[int, tuple[int, int]] = {}
    for row in kernels:
        if row["event_id"] is not None and row["busy_owned_ns"]:
            start, end = spans.get(row["event_id"], (row["start_ns"], row["end_ns"]))
            spans[row["event_id"]] = (min(start, row["start_ns"]), max(end, row["end_ns"]))
    got = sorted((start, end, text.split(":")[0]) for start, end, _, _, _, text in written(tmp_path / "o")[1:])
    assert got == sorted((*span, paths[event]) for event, span in spans.items())


def test_a_join_of_what_nsys_did_not_record_is_refused() -> None:
    kernels, ranges, rows = filled(KERNELS, OPERATIONS), filled(MEASURED, CALLS), points(CALLS).rows
    with pytest.raises(Refused, match="reports of nsys only"):
        list(nvtxt_text(kernels, ranges, rows, rates(kernels, ranges, rows, "here"), "here"))


def test_what_a_string_cannot_hold_is_replaced() -> None:
    assert plain('a "b" \\ c\nd\0 é \u202e') == "a 'b' / c?d? é ?"


def test_the_importer_of_nsight_systems_takes_every_range(tmp_path: Path) -> None:
    importer = shutil.which("ImportNvtxt")
    if importer is None:
        pytest.skip("needs ImportNvtxt of Nsight Systems on the PATH, and its libraries on LD_LIBRARY_PATH")
    demo(tmp_path / "o", force=False)
    count = len(written(tmp_path / "o"))
    command = [importer, "--cmd", "create", "-n", str(tmp_path / "o" / "t.nvtxt"), "-o", str(tmp_path / "t.nsys-rep")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert f"\n{count} events imported" in done.stdout
