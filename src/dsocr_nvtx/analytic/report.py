"""The plan's static report: an AnalyticModelReport of ModuleMetricsSnapshots, as plain data and as files.

``report.json`` and ``report.yaml`` say the same; ``layers/`` holds one file per block with the table's rows. Keys with
a unit are the plan's readings (TFLOPs, TB, GB) of the whole numbers beside them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from attrs import asdict, frozen

from dsocr_nvtx.analytic.layer import GIGA, TERA, Child, total
from dsocr_nvtx.analytic.memory import last_text_shape
from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.analytic.table import (
    ROW_COLUMNS,
    PageRequest,
    Row,
    page_table,
    page_total,
    prompt_shape,
    prompt_tokens,
    text_shape,
    vision_shape,
)
from dsocr_nvtx.schema.records import COST_FIELDS, CallShape, Cost, Stage

Data: TypeAlias = "bool | int | float | str | list[Data] | dict[str, Data] | None"

REPORT = "report.json"
"""The file that tells a report's directory from any other."""
MODULE_IDS: dict[str, str] = {
    "sam": "vision/image_encoder_vit",
    "clip": "vision/vit_model",
    "projector": "vision/mlp_projector",
    "embed": "decoder/token_embedding",
    "decoder.rotary": "decoder/llama_rotary_embedding",
    "decoder": "decoder/deepseek_v2_decoder_layer",
    "decoder.norm": "decoder/deepseek_v2_rms_norm",
    "lm_head": "decoder/lm_head",
}
"""The plan's names of the modules, by path; the decoder's layers are one module."""


@frozen(kw_only=True)
class _Call:
    """One call of a top-level module."""

    stage: Stage
    module_id: str
    child: Child


def analytic_model_report(layers: DeepseekOCRModel, request: PageRequest) -> dict[str, Data]:
    """Return the report of a page: the model, the page, totals of each stage, and one snapshot per module and stage."""
    rows = page_table(layers, request)
    prompt, last = prompt_tokens(layers, request), last_text_shape(layers, request)
    page = {**asdict(request), "prompt_tokens": prompt, "grid": list(request.grid)}
    report: dict[str, Data] = {
        "report_id": f"deepseek_ocr/{request.mode}-{'x'.join(map(str, request.grid))}-{prompt}+{request.decode_tokens}",
        "model": {"parameters": layers.parameters(), "weight_gb": layers.forward_memory_weight(last)},
        "page": page,
        "kv_cache_bytes": layers.kv_cache_bytes(last),
        "kv_gb": layers.forward_memory_kvcache(last),
        "stages": [_stage(rows, stage) for stage in Stage if any(row.stage is stage for row in rows)],
        "module_metrics": list(module_snapshots(layers, request)),
    }
    return report


def module_snapshots(layers: DeepseekOCRModel, request: PageRequest) -> Iterator[Data]:
    """Yield a snapshot of each top-level module in each stage: calls, inclusive costs, memory."""
    grouped: dict[tuple[Stage, str], list[_Call]] = {}
    for call in _calls(layers, request):
        grouped.setdefault((call.stage, call.module_id), []).append(call)
    for (stage, module_id), calls in grouped.items():
        yield _snapshot(stage, module_id, calls)


def layer_reports(layers: DeepseekOCRModel, request: PageRequest) -> dict[str, Data]:
    """Return, by file name, every block and every module outside blocks with the table's rows of all stages."""
    grouped: dict[str, list[Data]] = {}
    for row in page_table(layers, request):
        name = row.module if row.layer is None else f"{row.module}_{row.layer:02d}"
        grouped.setdefault(name, []).append(dict(zip(ROW_COLUMNS, row.values(), strict=True)))
    return {name: {"name": name, "rows": found} for name, found in grouped.items()}


def write_report(layers: DeepseekOCRModel, request: PageRequest, directory: Path) -> None:
    """Write ``report.json``, ``report.yaml`` and ``layers/`` into a directory, made if need be.

    Files of these names that are there are replaced.
    """
    report = analytic_model_report(layers, request)
    parts = layer_reports(layers, request)
    (directory / "layers").mkdir(parents=True, exist_ok=True)
    (directory / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (directory / "report.yaml").write_text("\n".join(yaml_lines(report)) + "\n", encoding="utf-8")
    for name, part in parts.items():
        (directory / "layers" / f"{name}.json").write_text(json.dumps(part, indent=2) + "\n", encoding="utf-8")


def yaml_lines(data: Data, depth: int = 0) -> Iterator[str]:
    """Yield block-style YAML: keys as they are, scalars as JSON writes them, which YAML reads alike."""
    for lead, value in _entries(data):
        if isinstance(value, (dict, list)) and value:
            yield "  " * depth + lead
            yield from yaml_lines(value, depth + 1)
        else:
            yield f"{'  ' * depth}{lead} {json.dumps(value)}"


def _entries(data: Data) -> list[tuple[str, Data]]:
    """Return what leads each line of a block, and its value."""
    if isinstance(data, dict):
        return [(f"{key}:", value) for key, value in data.items()]
    return [("-", value) for value in data] if isinstance(data, list) else []


def _calls(layers: DeepseekOCRModel, request: PageRequest) -> Iterator[_Call]:
    """Yield every call of a top-level module over the page."""
    for view in request.views():
        for child in layers.vision.children(vision_shape(request, view)):
            yield _Call(stage=Stage.VISION, module_id=MODULE_IDS[child.name], child=child)
    prompt = prompt_tokens(layers, request)
    yield from _text_calls(layers, Stage.PREFILL, prompt_shape(request, prompt))
    for step in range(request.decode_tokens):
        shape = text_shape(request, prompt, 1, prompt + step + 1, request.decode_experts or request.experts)
        yield from _text_calls(layers, Stage.DECODE, shape)


def _text_calls(layers: DeepseekOCRModel, stage: Stage, shape: CallShape) -> Iterator[_Call]:
    for child in layers.children(shape):
        module_id = MODULE_IDS[re.sub(r"\.\d+$", "", child.name)]
        yield _Call(stage=stage, module_id=module_id, child=child)


def _snapshot(stage: Stage, module_id: str, calls: list[_Call]) -> Data:
    """Return one ModuleMetricsSnapshot. Equal calls are computed once; memory is that of the largest and last call."""
    unique = {(id(call.child.description), call.child.shape): call.child for call in calls}
    costs = {at: child.description.cost(child.shape) for at, child in unique.items()}
    cost = total(costs[id(call.child.description), call.child.shape] for call in calls)
    last = {call.child.name: call.child for call in calls}.values()
    size = calls[-1].child.shape.itemsize
    return {
        "module_id": module_id,
        "class": type(calls[-1].child.description).__name__,
        "stage": stage.value,
        "calls": len(calls),
        **{name: getattr(cost, name) for name in COST_FIELDS},
        **_readings(cost),
        "w_gb": sum(child.description.resident_bytes(size) for child in last) / GIGA,
        "act_gb": max(child.description.peak_bytes(child.shape) for child in unique.values()) / GIGA,
        "kv_gb": sum(child.description.kv_cache_bytes(child.shape) for child in last) / GIGA,
    }


def _readings(cost: Cost) -> dict[str, Data]:
    return {
        "tensor_core_tflops": cost.tensor_flops / TERA,
        "cuda_core_tflops": cost.vector_flops / TERA,
        "flops_tflops": cost.flops / TERA,
        "io_tb": cost.min_bytes / TERA,
        "arithmetic_intensity": cost.intensity,
    }


def _stage(rows: list[Row], stage: Stage) -> Data:
    cost = page_total(rows, stage)
    return {"stage": stage.value, **{name: getattr(cost, name) for name in COST_FIELDS}, **_readings(cost)}
