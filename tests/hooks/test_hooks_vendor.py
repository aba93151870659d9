"""The vendor's layout: hooks attach, every part reports in its stage, and costs are what torch counts.

Run on a stand-in with the same module tree, names and call habits; and, where ``DSOCR_VENDOR_DIR`` names a folder with
the vendor's remote code (``config.json`` and its ``modeling_*.py``) and transformers 4.46 is there, for which that code
was written, on the original. The code is a stranger's: it is not part of this repository.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dsocr_nvtx.hooks import hook
from dsocr_nvtx.schema.records import CostState, RangeRecord, Stage
from tests.builders.emitters import Listener
from tests.builders.vendor import vendor_model, vendor_page
from tests.builders.vendor_decoder import DynamicCache

FOLDER = os.environ.get("DSOCR_VENDOR_DIR", "")
SMALL = {"num_hidden_layers": 3, "n_routed_experts": 8, "num_experts_per_tok": 6, "vocab_size": 2000}


@contextmanager
def _no_cuda() -> Iterator[None]:
    """The vendor's forward moves its mask with ``.cuda()``; here that stays where it is."""
    real = torch.Tensor.cuda
    torch.Tensor.cuda = lambda self, *_args, **_kwargs: self  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = real  # type: ignore[method-assign]


def _remote() -> tuple[Any, dict[str, Any], Any]:
    from transformers.cache_utils import DynamicCache as VendorsCache
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
    page = vendor_page(config, side=512, tile=640)
    return built, page, VendorsCache


@frozen(kw_only=True)
class Heard:
    """A page and two decode steps: what was recorded, what torch counted by module, and how large the model is."""

    records: list[RangeRecord]
    counted: dict[str, int]
    layers: dict[str, int]


@pytest.fixture(
    scope="module",
    params=["stand-in", pytest.param("remote", marks=[
        pytest.mark.vendor, pytest.mark.filterwarnings("ignore"),
        pytest.mark.skipif(not FOLDER, reason="DSOCR_VENDOR_DIR names no folder with the vendor's code"),
    ])],
)  # fmt: skip
def heard(request: pytest.FixtureRequest) -> Heard:
    if request.param == "remote":
        model, page, cache_of = _remote()
    else:
        model, cache_of = vendor_model(), DynamicCache
        page = vendor_page(model.config)
    cache, listener = cache_of(), Listener()
    # Fused attention on the CPU is not counted; by its products it is.
    counter, fused = FlopCounterMode(display=False), sdpa_kernel(SDPBackend.MATH)
    with _no_cuda(), torch.no_grad(), fused, counter, hook(model, emitter=listener) as session:
        for ids in (page["input_ids"], page["input_ids"][:, :1], page["input_ids"][:, :1]):
            model(**(page | {"input_ids": ids}), past_key_values=cache, use_cache=True)
    assert session.errors == []
    assert listener.stack == []
    counted = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    inner = model.model
    layers = {
        "decoder": len(inner.layers), "sam": len(inner.sam_model.blocks),
        "clip": len(inner.vision_model.transformer.layers),
    }  # fmt: skip
    return Heard(records=session.stats.records, counted=counted, layers=layers)


def test_every_part_reports_in_its_stage(heard: Heard) -> None:
    calls = Counter((record.path, str(record.stage)) for record in heard.records)
    text = ["model", "embed", "decoder.norm", "lm_head", "decoder.0.mlp"]
    text += [f"decoder.{i}{part}" for i in range(heard.layers["decoder"]) for part in ("", ".attention", ".input_norm")]
    text += [f"decoder.{i}.moe.{part}" for i in (1, 2) for part in ("gate", "experts", "shared_experts")]
    for path in text:
        assert (calls[path, Stage.PREFILL], calls[path, Stage.DECODE]) == (1, 2), path
    vision = ["sam", "sam.patch_embed", "sam.neck", "sam.net_2", "sam.net_3"]
    vision += ["clip", "clip.embeddings", "clip.pre_norm", "projector"]
    for tower in ("sam", "clip"):
        parts = ("", ".norm1", ".attention", ".norm2", ".mlp")
        vision += [f"{tower}.{i}{part}" for i in range(heard.layers[tower]) for part in parts]
    for path in vision:
        assert calls[path, Stage.VISION] == 2, path  # tiles, then the global view
    assert {path for path, stage in calls if stage == Stage.VISION} >= set(vision)


def test_kv_grows_by_one(heard: Heard) -> None:
    prefill, *decode = [r.kv_len for r in heard.records if r.path == "decoder.2.attention"]
    assert decode == [prefill + 1, prefill + 2]


def _inclusive(records: list[RangeRecord]) -> dict[str, int]:
    """Return the ``tensor_flops_unmasked`` of every path with all that is inside it."""
    paths = {record.event_id: record.path for record in records}
    parents = {record.event_id: record.parent_id for record in records}
    totals: dict[str, int] = defaultdict(int)
    for record in records:
        at: int | None = record.event_id
        while at is not None:
            totals[paths[at]] += record.cost.tensor_flops_unmasked
            at = parents[at]
    return totals


SEEN = {
    "sam": "sam_model", "sam.patch_embed": "sam_model.patch_embed", "sam.neck": "sam_model.neck",
    "sam.net_2": "sam_model.net_2", "sam.net_3": "sam_model.net_3", "clip": "vision_model",
    "clip.embeddings": "vision_model.embeddings", "clip.pre_norm": "vision_model.pre_layrnorm",
    "projector": "projector", "embed": "embed_tokens", "decoder.norm": "norm",
}  # fmt: skip
"""Where torch finds a part in the model; the rest is numbered."""


def _modules(layers: dict[str, int]) -> dict[str, tuple[str, ...]]:
    """Return for each path the modules whose counts make its cost. CLIP's parts run unseen, but not their layers."""
    found: dict[str, tuple[str, ...]] = {path: (name,) for path, name in SEEN.items()}
    for i in range(layers["sam"]):
        block = f"sam_model.blocks.{i}"
        found |= {f"sam.{i}": (block,), f"sam.{i}.attention": (f"{block}.attn",), f"sam.{i}.mlp": (f"{block}.mlp",)}
    for i in range(layers["clip"]):
        block = f"vision_model.transformer.layers.{i}"
        found |= {f"clip.{i}": (block,), f"clip.{i}.mlp": (f"{block}.mlp.fc1", f"{block}.mlp.fc2")}
    for i in range(layers["decoder"]):
        path, layer = f"decoder.{i}", f"layers.{i}"
        found |= {path: (layer,), f"{path}.attention": (f"{layer}.self_attn",)}
        found[f"{path}.moe" if i else f"{path}.mlp"] = (f"{layer}.mlp",)
        for part in ("gate", "shared_experts") if i else ():
            found[f"{path}.moe.{part}"] = (f"{layer}.mlp.{part}",)
    return found


def test_costs_of_every_part_are_what_torch_counts(heard: Heard) -> None:
    told = _inclusive(heard.records)
    for path, names in _modules(heard.layers).items():
        counted = sum(heard.counted.get(f"DeepseekOCRForCausalLM.model.{name}", 0) for name in names)
        assert told[path] == counted, path
    assert told["lm_head"] == heard.counted["DeepseekOCRForCausalLM.lm_head"]
    for layer in range(1, heard.layers["decoder"]):
        experts = (f"DeepseekOCRForCausalLM.model.layers.{layer}.mlp.experts.{number}" for number in range(64))
        assert told[f"decoder.{layer}.moe.experts"] == sum(heard.counted.get(name, 0) for name in experts)


def test_all_ranges_together_are_all_that_torch_counts(heard: Heard) -> None:
    assert sum(record.cost.tensor_flops_unmasked for record in heard.records) == heard.counted["Global"]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_oldest_caches_are_read(batch: int) -> None:
    """A tuple of (keys, values) for each layer goes in and comes out; none given: the model makes its own."""
    model = vendor_model()
    ids = torch.arange(9).expand(batch, -1)
    with hook(model) as session, torch.no_grad():
        found = model(input_ids=ids, use_cache=True)
        for _ in range(2):
            assert isinstance(found.past_key_values, tuple)
            found = model(input_ids=ids[:, :1], past_key_values=found.past_key_values, use_cache=True)
    assert session.errors == []
    calls = [record for record in session.stats.records if record.path == "decoder.2.attention"]
    assert [(str(r.stage), r.sequences, r.tokens, r.kv_len) for r in calls] == [
        ("prefill", batch, 9, 9), ("decode", batch, 1, 10), ("decode", batch, 1, 11),
    ]  # fmt: skip
    assert {record.state for record in session.stats.records} == {CostState.KNOWN}
    held = sum(part.nbytes for part in found.past_key_values[2])
    assert calls[-1].cost.kv_read_bytes == held


def test_outputs_are_those_without_hooks() -> None:
    model = vendor_model()
    page = vendor_page(model.config)
    with torch.no_grad():
        expected = model(**page, use_cache=True).logits
        with hook(model):
            assert torch.equal(model(**page, use_cache=True).logits, expected)
