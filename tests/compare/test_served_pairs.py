"""A run of transformers beside a served one: paired by stage, kind and layer, and what has no partner is said."""

from pathlib import Path

import pytest

from dsocr_nvtx.compare.comparison import Comparison, compare
from dsocr_nvtx.compare.gate import gate
from dsocr_nvtx.compare.outs import Out, read_out
from dsocr_nvtx.compare.rules import parse_rule
from dsocr_nvtx.roofline.joined import joined_report, write_tables
from dsocr_nvtx.schema.records import LayerKind, Level, Stage, code_of
from tests.builders.nsys import NsysFile
from tests.builders.served import two_pages
from tests.builders.tables import payload


def transformers() -> NsysFile:
    """Return a run of one process: a prefill of 900 rows, then decode steps of 901 and 902 keys; one layer."""
    file = NsysFile()
    file.device(pids=[1])
    file.schema()
    file.domain(1)
    steps = ((Stage.PREFILL, 0, 900, 900), (Stage.DECODE, 0, 1, 901), (Stage.DECODE, 1, 1, 902))
    for at, (stage, step, rows, keys) in enumerate(steps):
        told = {"stage": code_of(stage), "step": step, "sequences": 1, "rows": rows, "keys": keys}
        start = 400 * at
        file.push_pop("model", start, start + 300, values=payload(event_id=2 * at, kind=13, level=0, **told))
        of_layer = {
            "kind": code_of(LayerKind.ATTENTION),
            "level": code_of(Level.OP),
            "layer": 0,
            "tensor_flops": 1000 * rows,
        }
        values = payload(event_id=2 * at + 1, **told, **of_layer)
        file.push_pop("decoder.0.attention", start + 2, start + 298, values=values)
        file.launch("flash_fwd_kernel", start + 3, start + 20, start + 280)
    return file


def out(file: NsysFile, path: Path) -> Out:
    """Return the join of a report, as `diff` reads it."""
    folder = path.with_suffix(".dsocr")
    write_tables(folder, joined_report(file.write(path)), force=False)
    return read_out(folder)


@pytest.fixture(name="pair")
def compare_both(tmp_path: Path) -> Comparison:
    return compare(out(transformers(), tmp_path / "a.sqlite"), out(two_pages().file, tmp_path / "b.sqlite"))


def test_rows_pair_by_stage_kind_and_layer_and_mixed_ones_with_nothing(pair: Comparison) -> None:
    present = {(row.stage, row.module, row.kind, row.layer): row.present for row in pair.rows}
    for stage in ("prefill", "decode"):
        assert present[stage, "decoder", "attention", 0] == "both"
        assert present[stage, "model", "rest", None] == "both"
        assert present[stage, "host.sampling", "host", None] == "B"
    assert {where for (stage, *_), where in present.items() if stage in ("mixed", "host")} == {"B"}
    assert ("mixed", "decoder", "attention", 0) in present
    totals = {stage.stage: stage.total.reason for stage in pair.stages}
    assert list(totals) == ["prefill", "decode", "mixed", "host"]
    assert totals["mixed"] == totals["host"] == "only in B"


def test_a_process_of_host_work_alone_is_no_second_gpu(pair: Comparison) -> None:
    assert (pair.a.processes, pair.b.processes) == (1, 1)
    assert not any("processes" in line for line in pair.warnings)


@pytest.mark.parametrize(
    ("rule", "passes"),
    [
        ("host.preprocessing.idle_ns<=1000ms", True),
        ("host.host.preprocessing.idle_ns<=1000ms", True),
        ("host.preprocessing.idle_ns<=100ns", False),
        ("mixed.attention.0.busy_ns<=100us", True),
        ("mixed.busy_ns<=100ns", False),
    ],
)
def test_gates_hold_host_work_and_mixed_steps_to_rules(rule: str, passes: bool, tmp_path: Path) -> None:
    found = gate(out(two_pages().file, tmp_path / "b.sqlite"), None, [parse_rule(rule)])
    assert (found.outcome == "pass") == passes
