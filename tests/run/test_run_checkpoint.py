"""Checkpoints: both layouts load whole, and nothing that would leave a weight random or run code is accepted."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.run.checkpoint import checkpoint_config, load_checkpoint
from dsocr_nvtx.run.model import random_model, tiny_config

UNUSED = "model.vision_model.embeddings.patch_embedding.weight"


def _save(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _save(random_model(tiny_config()), tmp_path / "checkpoint")


def _assert_equal(left: nn.Module, right: nn.Module) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    buffers = dict(right.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in left.named_buffers())


def test_a_native_folder_loads_whole(folder: Path) -> None:
    _assert_equal(load_checkpoint(folder, dtype=torch.float32), random_model(tiny_config()))


def _vendor_model() -> nn.Module:
    """Return a tiny model of the dimensions that the vendor's code fixes: neck 256, window 14, base side 1024."""
    config = tiny_config()
    sam, clip = config.vision_config.sam_config, config.vision_config.encoder_config
    sam.output_channels, sam.window_size, sam.image_size, sam.mlp_dim = 256, 14, 1024, 4 * sam.hidden_size
    clip.image_size, clip.intermediate_size = 224, 4 * clip.hidden_size
    config.image_token_id = 128815
    return random_model(config, seed=3)


def _vendor_values(model: nn.Module) -> dict[str, object]:
    config = model.config
    text = config.text_config.to_dict()  # type: ignore[union-attr,operator]
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts")  # fmt: skip
    sam = {"downsample_channels": [48, 64], "global_attn_indexes": [2], "heads": 3, "layers": 3, "width": 48}
    clip = {"heads": 4, "image_size": 224, "layers": 2, "patch_size": 14, "width": 64}
    language = {key: text[key] for key in keys} | {"use_mla": False, "first_k_dense_replace": 1}
    return {
        "model_type": "deepseek_vl_v2",
        "auto_map": {"AutoModel": "modeling_evil.Evil"},
        "language_config": language,
        "vision_config": {"width": {"sam_vit_b": sam, "clip-l-14-224": clip}},
    }


@pytest.fixture
def vendor(tmp_path: Path) -> Path:
    model = _vendor_model()
    folder = _save(model, tmp_path / "vendor")
    (folder / "config.json").write_text(json.dumps(_vendor_values(model)))
    weights = load_file(folder / "model.safetensors")
    assert any(key.startswith("model.sam_model.blocks") for key in weights), "the library writes the vendor's names"
    save_file(weights | {UNUSED: torch.zeros(64, 3, 14, 14)}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_vendors_folder_loads_whole_with_full_attention(vendor: Path) -> None:
    loaded = load_checkpoint(vendor, dtype=torch.float32)
    _assert_equal(loaded, _vendor_model())
    assert checkpoint_config(vendor).text_config.layer_types == ["full_attention"] * 3


def test_latent_attention_is_another_network(vendor: Path) -> None:
    values = json.loads((vendor / "config.json").read_text())
    values["language_config"]["use_mla"] = True
    (vendor / "config.json").write_text(json.dumps(values))
    with pytest.raises(Refused, match="use_mla"):
        load_checkpoint(vendor)


@pytest.mark.parametrize("change", ["drop", "add", "reshape"])
def test_weights_that_do_not_fit_are_refused(folder: Path, change: str) -> None:
    weights = load_file(folder / "model.safetensors")
    if change == "drop":
        del weights["lm_head.weight"]
    elif change == "add":
        weights["model.layers.9.mlp.up_proj.weight"] = torch.zeros(2, 2)
    else:
        weights["lm_head.weight"] = torch.zeros(3, 64)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Refused) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickles_are_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(Refused, match=r"only pytorch_model\.bin, a pickle"):
        load_checkpoint(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(Refused, match="no weights"):
        load_checkpoint(folder)


def test_a_cut_weight_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Refused, match="whole DeepSeek-OCR checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"weight_map": {"lm_head.weight": "x.bin"}}', "a weight in 'x.bin', which is no .safetensors file beside it"),
        ('{"weight_map": {"lm_head.weight": "../x.safetensors"}}', "a weight in '../x.safetensors'"),
        ('{"weight_map": {"lm_head.weight": "/x.safetensors"}}', "a weight in '/x.safetensors'"),
        ('{"weight_map": {"lm_head.weight": 7}}', "a weight in '7'"), ('{"weight_map": {}}', "no index of weights"),
        ('{"weight_map": ["x.bin"]}', "no index of weights"), ("[" * 100_000, "no index of weights"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("beside", [True, False])
def test_an_index_that_names_anything_else_is_refused(folder: Path, text: str, found: str, *, beside: bool) -> None:
    (folder / "x.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (folder / "model.safetensors.index.json").write_text(text)
    if not beside:
        (folder / "model.safetensors").unlink()
    with pytest.raises(Refused) as caught:
        load_checkpoint(folder)
    assert found in str(caught.value)


def test_a_configuration_that_names_its_own_weights_is_refused(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text()) | {"transformers_weights": "adapter_model.bin"}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(Refused, match="names its own weights"):
        load_checkpoint(folder)


def test_a_missing_shard_is_refused(folder: Path) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Refused, match="whole DeepSeek-OCR checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "llama"}', '{"language_config": {}}'])
def test_other_configurations_are_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(Refused):
        load_checkpoint(folder)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such file"):
        load_checkpoint(tmp_path / "nowhere")


def test_sliding_windows_are_refused(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["text_config"]["layer_types"] = ["reference_sliding_attention"] * 3
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(Refused, match="sliding-window"):
        checkpoint_config(folder)


@pytest.mark.parametrize("where", ["top", "inside", "named"])
def test_the_vendors_sliding_windows_are_refused(vendor: Path, where: str) -> None:
    values = json.loads((vendor / "config.json").read_text())
    if where == "top":
        values["sliding_window"] = 8
    elif where == "named":
        values["model_type"] = "unlimited-ocr"
    else:
        values["language_config"]["sliding_window_size"] = 8
    (vendor / "config.json").write_text(json.dumps(values))
    with pytest.raises(Refused, match="sliding-window"):
        checkpoint_config(vendor)


@pytest.mark.parametrize("field", ["quantization_config", "quantization"])
@pytest.mark.parametrize("inside", [None, "language_config"])
def test_quantised_weights_are_refused_by_name(vendor: Path, field: str, inside: str | None) -> None:
    values = json.loads((vendor / "config.json").read_text())
    said = {"bits": 4, "group_size": 64} | ({"quant_method": "awq"} if field == "quantization_config" else {})
    (values[inside] if inside else values)[field] = said
    (vendor / "config.json").write_text(json.dumps(values))
    with pytest.raises(Refused, match=rf"quantised weights \({field}: (awq|MLX)\)"):
        load_checkpoint(vendor)
