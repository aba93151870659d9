"""The longest idle times get a name: where the launching thread was, what it called, and who called that."""

import lzma
import sqlite3
from pathlib import Path

import pytest

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import join
from tests.builders.nsys import NsysFile, global_id
from tests.builders.tables import payload_v1 as payload

EXPORTS = Path(__file__).parents[2] / ".." / "shared" / "data" / "nsys"


def stalled() -> NsysFile:
    """Return an export in which the GPU idles from 150 to 900 while the thread loads a library and synchronises."""
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    file.push_pop("decoder.0.attention", 100, 1000, values=payload(event_id=4, stage=2, step=3, tensor_flops=5))
    file.launch("first", 110, 120, 150)
    file.call("cudaStreamSynchronize_v3020", 140, 250)
    file.call("cuLibraryLoadData", 300, 700)
    file.call("cuLibraryLoadData", 720, 730)
    file.call("cudaGetDevice_v3020", 300, 800, tid=9)
    file.launch("second", 890, 900, 950)
    return file


def test_a_stall_names_its_place_and_the_calls_of_the_launching_thread(tmp_path: Path) -> None:
    longest = join(read(stalled().write(tmp_path / "s.sqlite")), "s").accounting.stalls[0]
    assert (longest.device, longest.start_ns, longest.ns, longest.next_operation) == (0, 150, 750, "second")
    assert (longest.path, longest.stage, longest.step) == ("decoder.0.attention", "decode", 3)
    # 700 - 300 and 730 - 720; from 150 of 140 to 250; the launch from 890 on.
    assert [(call.name, call.calls, call.ns) for call in longest.calls] == [
        ("cuLibraryLoadData", 2, 410), ("cudaStreamSynchronize_v3020", 1, 100), ("cudaLaunchKernel_v7000", 1, 2),
    ]  # fmt: skip
    assert longest.stack == ()


@pytest.mark.parametrize("own_row", [True, False])
def test_the_host_call_stack_of_the_longest_call_is_shown_where_there_is_one(tmp_path: Path, own_row: bool) -> None:
    file = stalled()
    rows = file.rows["CUPTI_ACTIVITY_KIND_RUNTIME"]
    loading = next(row for row in rows if row["start"] == 300 and row["globalTid"] == global_id(1, 1))
    if own_row:  # as --cudabacktrace writes it
        rows.append({**loading, "eventClass": 67, "callchainId": 5})
    else:
        loading["callchainId"] = 5
    for depth, frame in ((1, "forward"), (0, "compile"), (2, "main")):
        file.add("CUDA_CALLCHAINS", id=5, symbol=file.text(frame), module=file.text("lib"), stackDepth=depth)
    longest = join(read(file.write(tmp_path / "s.sqlite")), "s").accounting.stalls[0]
    assert longest.stack == ("compile", "forward", "main")


def test_idle_time_before_the_first_hooked_call_is_no_stall(tmp_path: Path) -> None:
    file = stalled()
    file.launch("early", -9000, -8990, -8980)
    found = join(read(file.write(tmp_path / "s.sqlite")), "s").accounting.stalls
    assert all(stall.start_ns + stall.ns > 100 for stall in found)


@pytest.mark.skipif(not EXPORTS.is_dir(), reason="the public exports in ../shared/data/nsys are not here")
def test_stacks_of_a_real_report_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    path.write_bytes(lzma.decompress((EXPORTS / "4f6385d6.sqlite.xz").read_bytes()))
    stacks = read(path).stacks
    assert len(stacks.chain) == 38
    connection = sqlite3.connect(path)
    calls = "(SELECT globalTid >> 24 & 16777215, correlationId, callchainId FROM CUPTI_ACTIVITY_KIND_RUNTIME)"
    query = f"SELECT * FROM {calls} WHERE callchainId IS NOT NULL"
    for pid, correlation, chain in connection.execute(query).fetchall():
        chains = "CUDA_CALLCHAINS c JOIN StringIds s ON s.id = symbol"
        frames = f"SELECT value FROM {chains} WHERE c.id = ? ORDER BY stackDepth"
        assert stacks.of(pid, correlation) == tuple(value for (value,) in connection.execute(frames, (chain,)))
    connection.close()
