"""Bindings: every part of each layout is found where it lies, and no name in the table can be broken unnoticed."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.hooks import bindings
from dsocr_nvtx.schema.records import Level
from dsocr_nvtx.serving.network import network_of
from tests.builders.ocr2 import ocr2_model
from tests.builders.vendor import vendor_model
from tests.builders.vllm_model import vllm_config, vllm_model
from tests.hooks.networks import network

LAYOUTS: dict[str, Callable[[], Any]] = {
    "native": network, "vendor": vendor_model, "ocr2": ocr2_model, "vllm": vllm_model,
}  # fmt: skip
Bound = dict[str, str]
"""Where each path is bound: the module's dotted name and, where it is not ``forward``, the method."""


@cache
def layout(name: str) -> Any:
    """Return the network of a layout, made once."""
    return LAYOUTS[name]()


def bound(room: Any, model: nn.Module) -> Bound | None:
    """Return what a version of the bindings binds in a model, with what its costs rest on; None where it refuses."""
    names = {id(module): name for name, module in model.named_modules()}
    try:
        if hasattr(model, "embed_multimodal"):
            found = room.served_network(model, network_of(vllm_config(), "vLLM"), Level.OP)
        else:
            found = room.hooked_network(model, Level.OP)
    except Refused:
        return None
    told = {}
    for binding in found.bindings:
        method = "" if binding.method == "forward" else f"::{binding.method}"
        told[binding.site.path] = f"{names[id(binding.owner)]}{method}"
    config = {"": f"{found.lists_experts} {type(found.config).__name__}"}
    kinds = {f"{b.site.path} ": f"{b.site.kind} {b.site.dtype} {b.site.attention}" for b in found.bindings}
    return told | config | kinds


def _decoder(layers: int, path: str = "model.language_model.") -> Iterator[tuple[str, str]]:
    yield from {
        "embed": f"{path}embed_tokens",
        "decoder.norm": f"{path}norm",
        "lm_head": "lm_head",
        "model": "",
    }.items()
    for i in range(layers):
        at, layer = f"decoder.{i}", f"{path}layers.{i}"
        yield at, layer
        yield f"{at}.input_norm", f"{layer}.input_layernorm"
        yield f"{at}.attention", f"{layer}.self_attn"
        yield f"{at}.post_norm", f"{layer}.post_attention_layernorm"
        yield f"{at}.moe" if i else f"{at}.mlp", f"{layer}.mlp"
        for part in ("gate", "shared_experts") if i else ():
            yield f"{at}.moe.{part}", f"{layer}.mlp.{part}"


def _blocks(path: str, at: str, count: int, parts: dict[str, str]) -> Iterator[tuple[str, str]]:
    for i in range(count):
        yield f"{path}.{i}", f"{at}.{i}"
        yield from ((f"{path}.{i}.{part}", f"{at}.{i}.{name}") for part, name in parts.items())


def _native_sam() -> Iterator[tuple[str, str]]:
    sam = "model.vision_tower.sam_encoder"
    yield from {"image_features": "model::get_image_features", "sam": sam}.items()
    yield from ((f"sam.{part}", f"{sam}.{part}") for part in ("patch_embed", "neck", "proj"))
    parts = {"norm1": "layer_norm1", "attention": "attn", "norm2": "layer_norm2", "mlp": "mlp"}
    yield from _blocks("sam", f"{sam}.layers", 3, parts)
    yield "projector", "model.multi_modal_projector"


def _native() -> Iterator[tuple[str, str]]:
    yield from _native_sam()
    clip = "model.vision_tower.vision_encoder"
    yield from {"clip": clip, "clip.embeddings": f"{clip}.embeddings", "clip.pre_norm": f"{clip}.pre_layrnorm"}.items()
    parts = {"norm1": "layer_norm1", "attention": "self_attn", "norm2": "layer_norm2", "mlp": "mlp"}
    yield from _blocks("clip", f"{clip}.encoder.layers", 2, parts)
    yield from _decoder(3)
    yield "decoder.rotary", "model.language_model.rotary_emb"
    yield from ((f"decoder.{i}.moe.experts", f"model.language_model.layers.{i}.mlp.experts") for i in (1, 2))


def _ocr2() -> Iterator[tuple[str, str]]:
    yield from _native_sam()
    encoder = "model.vision_tower.vision_encoder"
    yield from {"clip": encoder, "clip.norm": f"{encoder}.norm", "clip.rotary": f"{encoder}.rotary_emb"}.items()
    parts = {"input_norm": "input_layernorm", "attention": "self_attn"}
    parts |= {"post_norm": "post_attention_layernorm", "mlp": "mlp"}
    yield from _blocks("clip", f"{encoder}.layers", 2, parts)
    yield from _decoder(2)
    yield "decoder.rotary", "model.language_model.rotary_emb"
    yield "decoder.1.moe.experts", "model.language_model.layers.1.mlp.experts"


def _vendor() -> Iterator[tuple[str, str]]:
    yield "sam", "model.sam_model"
    yield from ((f"sam.{part}", f"model.sam_model.{part}") for part in ("patch_embed", "neck", "net_2", "net_3"))
    yield from _blocks(
        "sam", "model.sam_model.blocks", 3, {p: p for p in ("norm1", "norm2", "mlp")} | {"attention": "attn"}
    )
    clip = "model.vision_model"
    yield from {"clip": clip, "clip.embeddings": f"{clip}.embeddings", "clip.pre_norm": f"{clip}.pre_layrnorm"}.items()
    parts = {"norm1": "layer_norm1", "attention": "self_attn", "norm2": "layer_norm2", "mlp": "mlp"}
    yield from _blocks("clip", f"{clip}.transformer.layers", 2, parts)
    yield "projector", "model.projector"
    yield from _decoder(3, "model.")
    yield from ((f"decoder.{i}.moe.experts", f"model.layers.{i}.mlp::moe_infer") for i in (1, 2))


def _vllm() -> Iterator[tuple[str, str]]:
    yield from ((path, at.removeprefix("model.")) for path, at in _vendor() if not path.startswith("decoder"))
    path = "language_model.model."
    yield from _decoder(3, path)
    yield from {"image_features": "::embed_multimodal", "lm_head": "::compute_logits"}.items()
    yield from ((f"decoder.{i}.moe.experts", f"{path}layers.{i}.mlp.experts") for i in (1, 2))


PLACES = {"native": _native, "vendor": _vendor, "ocr2": _ocr2, "vllm": _vllm}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_part_is_bound_where_it_lies(name: str) -> None:
    """Written out here: a part that is bound elsewhere, or no longer, is a fault of the table."""
    found = bound(bindings, layout(name))
    assert found is not None
    assert {path: at for path, at in found.items() if path.strip() == path != ""} == dict(PLACES[name]())


def names_in(tree: ast.Module) -> list[ast.Constant]:
    """Return the texts in a module that name attributes: not docstrings, messages, the table's keys or comparisons."""
    others: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.Compare):
            others += ast.walk(node)
        elif isinstance(node, ast.Dict):
            others += filter(None, node.keys)
    inside = set(map(id, others))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside
        and re.fullmatch(r"\w+(\.\w+)*", node.value) and node.value != "forward"
    ]  # fmt: skip


def _broken() -> Iterator[tuple[str, ast.Constant, str]]:
    """Yield every attribute name in the source of the bindings, each of its dotted parts misspelt in turn."""
    for node in names_in(_TREE):
        parts = str(node.value).split(".")
        for number, part in enumerate(parts):
            wrong = ".".join([*parts[:number], f"{part}_misspelt", *parts[number + 1 :]])
            yield f"{node.lineno}:{node.col_offset}-{wrong}", node, wrong


_SOURCE = Path(bindings.__file__)
_TREE = ast.parse(_SOURCE.read_text(encoding="utf-8"))
BROKEN = {name: (node, wrong) for name, node, wrong in _broken()}


@pytest.mark.parametrize("name", BROKEN)
def test_no_attribute_name_can_be_broken_unnoticed(name: str) -> None:
    """With one name misspelt in a copy of the bindings, a layout is refused, or other places or costs are bound."""
    node, wrong = BROKEN[name]
    node.value, right = wrong, node.value
    try:
        code = compile(_TREE, _SOURCE, "exec")
    finally:
        node.value = right
    copy = ModuleType(bindings.__name__)
    exec(code, copy.__dict__)
    assert [bound(copy, layout(one)) for one in LAYOUTS] != [bound(bindings, layout(one)) for one in LAYOUTS]
