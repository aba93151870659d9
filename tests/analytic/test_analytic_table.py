import json
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dsocr_nvtx.analytic import build_analytic_layers_from_config
from dsocr_nvtx.analytic.page import image_tokens as released_tokens
from dsocr_nvtx.analytic.report import analytic_model_report, write_report, yaml_lines
from dsocr_nvtx.analytic.table import (
    ROW_COLUMNS,
    PageRequest,
    image_tokens,
    page_table,
    page_total,
    prompt_tokens,
    text_shape,
    vision_shape,
)
from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.schema.records import COST_FIELDS, LayerKind, Stage
from tests.analytic.settings import native, vendor

LAYERS = build_analytic_layers_from_config(native())
PAGE = PageRequest(mode="gundam", grid=(2, 3), decode_tokens=5)


def test_rows_are_disjoint_and_ordered() -> None:
    rows = page_table(LAYERS, PAGE)
    keys = [(row.stage, row.module, row.kind, row.layer) for row in rows]
    assert len(set(keys)) == len(keys)
    assert [stage for stage in Stage if stage in dict.fromkeys(row.stage for row in rows)] == list(
        dict.fromkeys(row.stage for row in rows)
    )
    assert {row.module for row in rows} == {"sam", "clip", "projector", "embed", "decoder", "lm_head", "model"}
    assert {row.kind for row in rows} == set(LayerKind) - {LayerKind.HOST}


def test_rows_add_up_to_the_models_own_costs() -> None:
    rows = page_table(LAYERS, PAGE)
    additive = [name for name in COST_FIELDS if name != "activation_bytes"]
    seen = [LAYERS.vision.cost(vision_shape(PAGE, view)) for view in PAGE.views()]
    prefill = LAYERS.cost(text_shape(PAGE, 913, 913, 913, "grouped_mm"))
    steps = [LAYERS.cost(text_shape(PAGE, 913, 1, 914 + step, "grouped_mm")) for step in range(5)]
    for stage, costs in ((Stage.VISION, seen), (Stage.PREFILL, [prefill]), (Stage.DECODE, steps)):
        summed = page_total(rows, stage)
        for name in additive:
            assert getattr(summed, name) == sum(getattr(cost, name) for cost in costs), (stage, name)


def test_calls_are_counted() -> None:
    calls = {(row.stage, row.module, row.kind, row.layer): row.calls for row in page_table(LAYERS, PAGE)}
    assert calls[Stage.VISION, "sam", LayerKind.NECK, None] == 4  # neck and proj, page and tiles
    assert calls[Stage.VISION, "sam", LayerKind.WINDOW_ATTENTION, 0] == 2
    assert calls[Stage.PREFILL, "decoder", LayerKind.NORM, 3] == 2
    assert calls[Stage.DECODE, "decoder", LayerKind.REST, 3] == 10  # the layer and its mixture, five steps
    assert calls[Stage.DECODE, "lm_head", LayerKind.LM_HEAD, None] == 5


@pytest.mark.parametrize("mode", ["tiny", "small", "base", "large", "gundam"])
def test_the_layers_say_the_same_image_tokens_as_the_page(mode: str) -> None:
    for grid in [(1, 1), (2, 1), (2, 3), (3, 3)] if mode == "gundam" else [(1, 1)]:
        assert image_tokens(LAYERS, PageRequest(mode=mode, grid=grid, batch=2)) == released_tokens(mode, grid)


def test_the_prompt_is_the_whole_prompt() -> None:
    assert prompt_tokens(LAYERS, PAGE) == 913
    assert prompt_tokens(LAYERS, evolve(PAGE, prompt_tokens=1000)) == 1000
    with pytest.raises(UsageError, match="cannot hold the image's 903"):
        page_table(LAYERS, evolve(PAGE, prompt_tokens=900))


def test_logits_of_all_rows_cost_the_prompt() -> None:
    def head(request: PageRequest) -> int:
        rows = page_table(LAYERS, request)
        return next(r for r in rows if (r.stage, r.kind) == (Stage.PREFILL, LayerKind.LM_HEAD)).cost.tensor_flops

    assert head(evolve(PAGE, logits="all")) == 913 * head(PAGE)


def test_a_batch_of_pages_has_as_many_images() -> None:
    alone, four = (page_total(page_table(LAYERS, evolve(PAGE, batch=batch)), Stage.VISION) for batch in (1, 4))
    assert four.tensor_flops == 4 * alone.tensor_flops
    assert four.weight_bytes == alone.weight_bytes


def test_decode_of_one_token_needs_what_the_literature_says() -> None:
    step = page_total(page_table(LAYERS, evolve(PAGE, decode_tokens=1)), Stage.DECODE)
    assert step.weight_bytes == pytest.approx(1.148e9, rel=1e-3)  # 574 M active parameters, two bytes each
    assert step.kv_read_bytes == 914 * 61_440
    copied = page_total(page_table(LAYERS, evolve(PAGE, decode_tokens=1, decode_experts="batched_mm")), Stage.DECODE)
    assert copied.op_bytes - step.op_bytes == pytest.approx(11 * 2 * 41_287_680, rel=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"logits": "some"},
        {"dtype": "int3"},
        {"attention": "flash"},
        {"experts": "group"},
        {"decode_experts": ""},
        {"batch": 0},
        {"decode_tokens": -1},
    ],
)
def test_a_wrong_request_is_a_usage_error(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        evolve(PAGE, **change)


def test_a_static_cache_must_hold_the_page() -> None:
    with pytest.raises(UsageError, match="static cache"):
        page_table(LAYERS, evolve(PAGE, kv_slots=915))
    assert page_table(LAYERS, evolve(PAGE, kv_slots=1024))


def test_a_row_is_written_in_the_order_of_its_columns() -> None:
    row = page_table(LAYERS, PAGE)[-1]
    written = dict(zip(ROW_COLUMNS, row.values(), strict=True))
    assert (written["stage"], written["module"], written["kind"], written["layer"]) == (
        "decode",
        "lm_head",
        "lm_head",
        None,
    )
    assert written["tensor_flops"] == row.cost.tensor_flops
    assert ROW_COLUMNS[-1] == "op_bytes"


def test_native_and_vendor_have_one_table() -> None:
    assert page_table(build_analytic_layers_from_config(vendor(nested=True)), PAGE) == page_table(LAYERS, PAGE)


def test_the_report_is_written_with_the_plans_names(tmp_path: Path) -> None:
    write_report(LAYERS, PAGE, tmp_path / "analytic_model")
    report = json.loads((tmp_path / "analytic_model" / "report.json").read_text())
    assert report == analytic_model_report(LAYERS, PAGE)
    assert report["model"]["parameters"] == 3_335_504_128
    assert report["kv_cache_bytes"] == 918 * 61_440
    snapshots = {(entry["module_id"], entry["stage"]): entry for entry in report["module_metrics"]}
    assert {"vision/image_encoder_vit", "vision/vit_model", "vision/mlp_projector"} <= {name for name, _ in snapshots}
    layer = snapshots["decoder/deepseek_v2_decoder_layer", "decode"]
    assert (layer["class"], layer["calls"]) == ("DeepseekV2DecoderLayer", 60)
    assert layer["kv_gb"] == pytest.approx(918 * 61_440 / 1e9)
    assert layer["w_gb"] == pytest.approx(2 * (32_852_480 + 11 * 233_720_320) / 1e9)
    stages = {entry["stage"]: entry for entry in report["stages"]}
    assert layer["flops_tflops"] < stages["decode"]["flops_tflops"]
    files = {path.name for path in (tmp_path / "analytic_model" / "layers").iterdir()}
    assert {"decoder_00.json", "decoder_11.json", "sam_11.json", "clip_23.json", "lm_head.json"} <= files
    rows = json.loads((tmp_path / "analytic_model" / "layers" / "decoder_03.json").read_text())["rows"]
    assert {row["stage"] for row in rows} == {"prefill", "decode"}


def test_yaml_is_what_yaml_reads() -> None:
    data: dict[str, object] = {"a": [1, {"b": "x: y", "c": []}], "d": None, "e": {"f": [[2.5, True]]}}
    lines = list(yaml_lines(data))  # type: ignore[arg-type]
    assert lines[0] == "a:"
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load("\n".join(lines)) == data
