"""`dsocr-nvtx analytic`: what it writes, prints and refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

from dsocr_nvtx.analytic import build_analytic_layers_from_config
from dsocr_nvtx.analytic.memory import page_memory
from dsocr_nvtx.analytic.released import RELEASED, read_config
from dsocr_nvtx.analytic.table import PageRequest, page_calls, page_table, page_total
from dsocr_nvtx.cli.analytic import page_arrow, page_costs
from dsocr_nvtx.cli.commands import app
from dsocr_nvtx.errors import Refused, UsageError
from dsocr_nvtx.schema.files import read_table
from dsocr_nvtx.schema.hardware import datasheet
from dsocr_nvtx.schema.records import COST_FIELDS, Stage
from dsocr_nvtx.schema.tables import ANALYTIC, ANALYTIC_LEAST
from tests.analytic.settings import native, vendor

LAYERS = build_analytic_layers_from_config(RELEASED)
H200 = datasheet("NVIDIA H200")


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["analytic", *arguments])


def test_the_numbers_held_are_the_released_models() -> None:
    assert native() == RELEASED


def test_the_table_is_the_page_in_the_designs_columns(tmp_path: Path) -> None:
    done = _run("-o", str(tmp_path / "page.arrow"), "--tiles", "2x1", "--decode-tokens", "7", "--batch", "2")
    assert done.exit_code == 0, done.output
    table = read_table(tmp_path / "page.arrow")
    assert table.schema.equals(ANALYTIC)
    assert table.column_names == [
        *("stage", "module", "kind", "layer", "calls", "tensor_flops", "tensor_flops_unmasked", "vector_flops"),
        *("weight_bytes", "activation_bytes", "kv_read_bytes", "kv_write_bytes", "op_bytes"),
    ]
    request = PageRequest(mode="gundam", grid=(2, 1), decode_tokens=7, batch=2, decode_experts="batched_mm")
    total = page_total(page_table(LAYERS, request))
    assert [sum(table[name].to_pylist()) for name in COST_FIELDS] == [getattr(total, name) for name in COST_FIELDS]
    about = table.schema.metadata
    assert (about[b"prompt_tokens"], about[b"grid"], about[b"config"]) == (b"493", b"(2, 1)", b"released")


def test_the_suffix_says_the_format(tmp_path: Path) -> None:
    paths = [tmp_path / f"page.{suffix}" for suffix in ("csv", "json", "parquet")]
    for path in paths:
        assert _run("-o", str(path), "--mode", "tiny", "--decode-tokens", "1").exit_code == 0
    csv, rows, parquet = (
        pyarrow.csv.read_csv(paths[0]), json.loads(paths[1].read_text()), pyarrow.parquet.read_table(paths[2]),
    )  # fmt: skip
    assert len(csv) == len(rows) == len(parquet)
    assert csv["tensor_flops"].to_pylist() == [row["tensor_flops"] for row in rows] == parquet[5].to_pylist()


def test_the_terminal_shows_stages_memory_and_rates() -> None:
    text = _run("--mode", "base", "--hardware", "NVIDIA H200", "--decode-tokens", "10", "--batch", "4").output
    for words in ("vision", "prefill", "decode", "page", "weights 6.671 GB", "tokens/s in decode", "pages/s"):
        assert words in text
    assert "pages/s" not in _run("--mode", "base").output


def test_options_reach_the_request(tmp_path: Path) -> None:
    arguments = ["--mode", "small", "--prompt-tokens", "500", "--experts", "eager", "--attention", "eager"]
    arguments += ["--logits", "all", "--dtype", "float32", "--static-cache", "700", "-o", str(tmp_path / "a.json")]
    assert _run(*arguments).exit_code == 0
    request = PageRequest(
        mode="small", prompt_tokens=500, experts="eager", attention="eager", logits="all", dtype="float32",
        kv_slots=700, decode_tokens=100,
    )  # fmt: skip
    found = json.loads((tmp_path / "a.json").read_text())
    assert [row["op_bytes"] for row in found] == [row.cost.op_bytes for row in page_table(LAYERS, request)]


def test_auto_experts_decode_as_generate_does_on_a_gpu(tmp_path: Path) -> None:
    for name in ("auto", "grouped_mm"):
        _run("--experts", name, "--mode", "tiny", "-o", str(tmp_path / f"{name}.json"))
    auto, grouped = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("auto", "grouped_mm"))
    differing = {(a["stage"], a["kind"]) for a, g in zip(auto, grouped, strict=True) if a != g}
    assert differing == {("decode", "experts")}


def test_least_times_are_call_by_call() -> None:
    request = PageRequest(mode="base", decode_tokens=3, batch=2)
    page = page_costs(LAYERS, request, H200)
    table = page_arrow(page, {})
    assert table.schema.equals(ANALYTIC_LEAST)
    head = next(r for r in table.to_pylist() if (r["stage"], r["kind"]) == ("decode", "lm_head"))
    cold = 129280 * 1280 * 2  # the weights; 2 rows and their logits fit the L2
    assert head["roofline_ns"] == round(3 * cold / 4800e9 * 1e9)
    assert head["bound"] == "memory"
    by_hand = 0.0
    for calls in page_calls(LAYERS, request):
        for count, cost in calls.costs:
            bytes_cold = cost.min_bytes - min(cost.activation_bytes, H200.l2_bytes)
            compute = max(cost.tensor_flops / 989.5e12, cost.vector_flops / 66.9e12)
            by_hand += count * max(compute, bytes_cold / 4800e9, cost.min_bytes / 8.73e12) * 1e9
    assert page.stage_least().roofline == pytest.approx(by_hand)
    assert sum(page.stage_least(stage).roofline for stage in Stage) == pytest.approx(by_hand)


def test_a_larger_batch_decodes_more_tokens_a_second() -> None:
    def rate(batch: int) -> float:
        request = PageRequest(mode="base", decode_tokens=8, batch=batch)
        return batch * 8 / page_costs(LAYERS, request, H200).stage_least(Stage.DECODE).roofline

    assert rate(1) < rate(4) < rate(64)


def test_ceilings_may_come_from_a_file(tmp_path: Path) -> None:
    roofs = {
        "device": "mine", "tensor": {"bfloat16": 10**15}, "vector": 10**14, "bandwidth": 10**13, "l2_bytes": 10**8,
        "tensor_clock_hz": 10**9, "max_clock_hz": 10**9, "source": "measured",
    }  # fmt: skip
    (tmp_path / "roofs.json").write_text(json.dumps(roofs))
    done = _run("--mode", "tiny", "--ceilings", str(tmp_path / "roofs.json"))
    assert "at the roofs of mine" in done.output
    wrong = _run("--mode", "tiny", "--ceilings", str(tmp_path / "roofs.json"), "--dtype", "float16")
    assert "no matrix rate for float16" in str(wrong.exception)


@pytest.mark.parametrize("config", [native(), vendor(nested=True), vendor(nested=False)])
def test_a_config_file_of_any_layout_is_the_same_page(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    layers = build_analytic_layers_from_config(read_config(tmp_path))
    request = PageRequest(mode="tiny", decode_tokens=1)
    assert page_table(layers, request) == page_table(LAYERS, request)


@pytest.mark.parametrize(("field", "value"), [("vocab_size", None), ("hidden_size", -1280), ("num_attention_heads", 7)])
def test_a_wrong_config_is_refused_by_file_and_field(field: str, value: int | None, tmp_path: Path) -> None:
    config = native()
    config["text_config"][field] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = _run("--config", str(tmp_path / "config.json"))
    assert isinstance(done.exception, Refused)
    assert f"{tmp_path / 'config.json'}: config.text_config.{field}" in str(done.exception)


@pytest.mark.parametrize(
    ("text", "found"), [(None, "no such file"), ("{", "not a readable"), ("[]", "not a readable JSON object")]
)
def test_what_is_no_config_is_refused(text: str | None, found: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    done = _run("--config", str(tmp_path / "config.json"))
    assert isinstance(done.exception, Refused)
    assert str(done.exception).count("config.json") == 1 + ("config.json of" in str(done.exception))
    assert found in str(done.exception)


def test_the_plans_report_is_written_beside(tmp_path: Path) -> None:
    assert _run("--mode", "tiny", "--report", str(tmp_path / "model")).exit_code == 0
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"report.json", "report.yaml", "layers"}


def test_memory_is_weights_cache_and_the_largest_peak() -> None:
    page = page_memory(LAYERS, PageRequest(mode="gundam", grid=(2, 3), decode_tokens=87))
    assert (page.weight_bytes, page.kv_cache_bytes) == (2 * 3_335_504_128, 1000 * 61_440)
    more = page_memory(LAYERS, PageRequest(mode="gundam", grid=(2, 3), decode_tokens=87, logits="all", batch=16))
    assert more.activation_bytes > 16 * page.activation_bytes * 0.99
    slots = page_memory(LAYERS, PageRequest(mode="tiny", decode_tokens=1, kv_slots=4096))
    assert slots.kv_cache_bytes == 4096 * 61_440
    assert slots.total_bytes == slots.weight_bytes + slots.kv_cache_bytes + slots.activation_bytes


def test_it_runs_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'nvtx'): sys.modules[name] = None\n"
        "from dsocr_nvtx.cli import main\nmain()\n"
    )
    command = [sys.executable, "-c", code, "analytic", "--mode", "tiny", "-o", str(tmp_path / "a.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_quantised_weights_are_said_and_counted(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**vendor(nested=True), "quantization_config": {"quant_method": "awq", "bits": 4}}))
    done = _run("--config", str(config), "-o", str(tmp_path / "page.arrow"))
    assert done.exit_code == 0, done.output
    said = "awq, 4 bits, groups of 128"
    assert done.output.splitlines()[0] == f"weights as they are stored: {said}"
    held = page_memory(build_analytic_layers_from_config(read_config(config)), PageRequest()).weight_bytes / 1e9
    assert 2 < held < 3
    assert f"memory: weights {held:.3f} GB" in done.output
    assert read_table(tmp_path / "page.arrow").schema.metadata[b"weights"] == said.encode()


def test_an_unknown_quantisation_is_refused_by_name(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**native(), "quantization_config": {"quant_method": "vptq"}}))
    done = _run("--config", str(config))
    assert isinstance(done.exception, Refused)
    assert f"{config}: config.quantization_config.quant_method: is 'vptq'" in str(done.exception)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (("--batch", f"{1 << 21}"), "batch 2,097,152 is more than the 1,048,576"),
        (("--prompt-tokens", f"{10**24}"), "prompt_tokens 1,000,000,000"),
        (("--mode", "gundam", "--tiles", "2000x1000"), "tiles 2,000,000"),
        (("--decode-tokens", f"{10**12}"), "more than the 131,072 that are priced"),
    ],
)
def test_pages_without_end_are_refused_at_once(sizes: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        CliRunner().invoke(app, ["analytic", *sizes], catch_exceptions=False)


def test_a_page_that_costs_more_than_64_bits_hold_is_refused() -> None:
    config = native()
    config["text_config"]["intermediate_size"] = (1 << 31) - 1
    layers = build_analytic_layers_from_config(config)
    with pytest.raises(Refused, match="tensor_flops of the page is more than 64 bits hold"):
        page_costs(layers, PageRequest(mode="large", batch=1 << 14), None)


def test_what_never_ends_is_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    for path in (Path("/dev/zero"), tmp_path / "config.json", tmp_path):
        with pytest.raises(Refused, match="a pipe or a device"):
            read_config(path)


def test_more_tiles_than_the_model_cuts_are_remarked() -> None:
    many, most = _run("--tiles", "9x9"), _run("--tiles", "3x3")
    assert "at most 9 tiles" in many.output
    assert "at most" not in most.output
