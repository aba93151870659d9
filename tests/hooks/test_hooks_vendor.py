"""The vendor's own model: hooks attach, every layer reports, costs equal the native network's for the same shapes.

Needs a folder with the vendor's remote code (``config.json`` and its ``modeling_*.py``), named by ``DSOCR_VENDOR_DIR``,
and transformers 4.46, which that code was written for. The code is a stranger's: it is not part of this repository.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dsocr_nvtx.analytic import build_analytic_layers_from_config
from dsocr_nvtx.analytic.layer import walk
from dsocr_nvtx.hooks import hook
from dsocr_nvtx.schema.records import RangeRecord, Stage
from tests.builders.emitters import Listener

FOLDER = os.environ.get("DSOCR_VENDOR_DIR", "")
pytestmark = [
    pytest.mark.vendor,
    pytest.mark.skipif(not FOLDER, reason="DSOCR_VENDOR_DIR names no folder with the vendor's code"),
    pytest.mark.filterwarnings("ignore"),
]
SMALL = {"num_hidden_layers": 3, "n_routed_experts": 8, "num_experts_per_tok": 6, "vocab_size": 2000}
SIDE, TILES = 512, (2, 1)


@contextmanager
def _no_cuda() -> Iterator[None]:
    """The vendor's forward moves its mask with ``.cuda()``; here that stays where it is."""
    real = torch.Tensor.cuda
    torch.Tensor.cuda = lambda self, *_args, **_kwargs: self  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = real  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    cls = get_class_from_dynamic_module("modeling_deepseekocr.DeepseekOCRForCausalLM", FOLDER)
    settings = json.loads((Path(FOLDER) / "config.json").read_text()) | SMALL
    config = cls.config_class.from_dict(settings)
    config._attn_implementation = "eager"
    built = cls(config).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.dim() > 1 or "newline" in name or "seperator" in name:
                parameter.normal_(0.0, 0.02, generator=noise)
    return built


@pytest.fixture(scope="module")
def records(model: Any) -> list[RangeRecord]:
    from transformers.cache_utils import DynamicCache

    noise = torch.Generator().manual_seed(1)
    columns, rows = TILES
    grid = SIDE // 64
    images = 1 + grid * (grid + 1) + 10 * rows * (10 * columns + 1)
    ids = torch.randint(2, 1999, (1, images + 10), generator=noise)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, 1 : 1 + images] = True
    page = {
        "images": [(torch.randn(2, 3, 640, 640, generator=noise), torch.randn(1, 3, SIDE, SIDE, generator=noise))],
        "images_seq_mask": mask,
        "images_spatial_crop": torch.tensor([TILES]),
    }
    cache = DynamicCache()
    with hook(model, emitter=(listener := Listener())) as session, _no_cuda(), torch.no_grad():
        for given in (ids, ids[:, :1], ids[:, :1]):
            model(input_ids=given, past_key_values=cache, use_cache=True, **page)
    assert session.errors == []
    assert listener.stack == []
    return session.stats.records


def test_every_layer_reports_in_its_stage(records: list[RangeRecord]) -> None:
    calls: dict[tuple[str, str], int] = {}
    for record in records:
        calls[record.path, record.stage] = calls.get((record.path, record.stage), 0) + 1
    for path in ("model", "lm_head", *(f"decoder.{i}{part}" for i in range(3) for part in ("", ".attention"))):
        assert (calls[path, Stage.PREFILL], calls[path, Stage.DECODE]) == (1, 2), path
    for path in ("decoder.1.moe.gate", "decoder.2.moe.experts", "decoder.1.moe.shared_experts", "decoder.0.mlp"):
        assert (calls[path, Stage.PREFILL], calls[path, Stage.DECODE]) == (1, 2), path
    vision = [f"sam.{i}.attention" for i in range(12)] + [f"clip.{i}.attention" for i in range(24)]
    for path in ("sam", "clip", "projector", "sam.neck", "sam.net_3", *vision):
        assert calls[path, Stage.VISION] == 2, path  # tiles, then the global view


def test_kv_grows_by_one(records: list[RangeRecord]) -> None:
    prefill, *decode = [r.shape.kv_len for r in records if r.path == "decoder.2.attention"]
    assert decode == [prefill + 1, prefill + 2]


def test_costs_are_those_of_the_native_network(records: list[RangeRecord], model: Any) -> None:
    """The native network's configuration, as numbers; no class of it is needed to know its costs."""
    layers = {key: SMALL[key] for key in ("n_routed_experts", "num_experts_per_tok", "vocab_size")}
    native = build_analytic_layers_from_config(_native_config(num_hidden_layers=3, **layers))
    described: dict[str, Any] = {}
    for record in records:
        shape = record.shape
        roots = (("sam", native.sam), ("clip", native.clip), ("projector", native.projector), ("", native))
        for name, root in roots:
            for node in walk(name, root, shape):
                described.setdefault(node.path, node.description)
    compared = 0
    for record in records:
        if record.path in described and record.path:
            assert record.cost == described[record.path].cost(record.shape), record.path
            compared += 1
    assert compared > 400


def _native_config(**text: Any) -> dict[str, Any]:
    sam = {
        "hidden_size": 768, "output_channels": 256, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 1024, "patch_size": 16, "qkv_bias": True, "use_abs_pos": True,
        "use_rel_pos": True, "window_size": 14, "global_attn_indexes": [2, 5, 8, 11], "mlp_dim": 3072,
        "downsample_channels": [512, 1024], "hidden_act": "gelu",
    }  # fmt: skip
    clip = {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_channels": 3, "image_size": 224, "patch_size": 14, "hidden_act": "quick_gelu",
    }  # fmt: skip
    decoder = {
        "vocab_size": 129280, "hidden_size": 1280, "intermediate_size": 6848, "num_hidden_layers": 12,
        "num_attention_heads": 10, "num_key_value_heads": 10, "hidden_act": "silu", "n_routed_experts": 64,
        "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 896, "first_k_dense_replace": 1,
        "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip
    return {"text_config": decoder | text, "vision_config": {"sam_config": sam, "encoder_config": clip}}
