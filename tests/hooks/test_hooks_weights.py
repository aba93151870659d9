"""Weights are counted as they lie: by type, packed with their scales, or refused by name."""

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402 - needs what was just made sure of

from dsocr_nvtx.analytic import build_analytic_layers_from_config  # noqa: E402
from dsocr_nvtx.analytic.mlp import LmHead  # noqa: E402
from dsocr_nvtx.analytic.stored import named_parts, with_stored_bytes  # noqa: E402
from dsocr_nvtx.errors import Refused  # noqa: E402
from dsocr_nvtx.hooks.weights import Lying, element_type, lying_weights, refuse_adapters, stored_network  # noqa: E402
from dsocr_nvtx.schema.records import CallShape  # noqa: E402
from tests.analytic.networks import small_network  # noqa: E402

HEAD = LmHead(width=64, columns=32)
PATHS = {
    "decoder.0.attention": "self_attn", "decoder.0.mlp": "mlp", "decoder.0.input_norm": "input_layernorm",
    "decoder.1.moe.gate": "mlp.gate", "decoder.1.moe.experts": "mlp.experts",
    "decoder.1.moe.shared_experts": "mlp.shared_experts", "decoder.1.moe": "mlp", "decoder.1": "",
}  # fmt: skip


def owners(model: Any) -> list[tuple[str, nn.Module]]:
    layers = model.model.language_model.layers
    found = [(path, layers[int(path.split(".")[1])].get_submodule(name)) for path, name in PATHS.items()]
    return [*found, ("lm_head", model.lm_head), ("sam", model.model.vision_tower.sam_encoder), ("prefill", model)]


def test_every_part_weighs_what_its_parameters_do() -> None:
    model = small_network()
    gate = model.model.language_model.layers[1].mlp.gate
    gate.float()
    try:
        network = stored_network(build_analytic_layers_from_config(model.config), owners(model))
    finally:
        gate.bfloat16()
    stored = {path: part.stored_bytes for path, part in named_parts(network)}
    assert stored["decoder.1.moe.gate"] == 8 * 256 * 4  # float32 inside bfloat16, as transformers 5.24 keeps it
    assert stored["decoder.0.attention"] == 4 * 256 * 256 * 2
    assert stored["decoder.1.moe.experts"] == 8 * 3 * 256 * 128 * 2
    assert stored["sam"] == 16 * 16 * 64 * 2  # the position table alone; what is inside is counted there
    assert stored["decoder.1.moe"] == 0
    moe = network.layers[1].cost(CallShape(tokens=3))
    plain = build_analytic_layers_from_config(model.config).layers[1].cost(CallShape(tokens=3))
    assert moe.weight_bytes - plain.weight_bytes == 8 * 256 * 2
    assert plain.op_bytes - moe.op_bytes == 8 * 256 * (2 + 4)  # nothing is cast: two bytes read, four written


def test_a_network_of_plain_weights_costs_as_before() -> None:
    network = build_analytic_layers_from_config(small_network().config)
    plain = {path: part.own_parameters() * 2 for path, part in named_parts(network)}
    for shape in (CallShape(tokens=7), CallShape(batch=3, tokens=1, kv_len=9)):
        assert with_stored_bytes(network, plain).cost(shape) == network.cost(shape)


def linear(weight: nn.Parameter, **state: Any) -> nn.Module:
    module = nn.Linear(1, 1, bias=False)
    module.weight = weight
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            module.register_buffer(name, value)
        else:
            setattr(module, name, value)
    return module


def packed(*size: int, dtype: Any) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*size, dtype=dtype), requires_grad=False)


def floats(*size: int) -> Any:
    return torch.zeros(*size, dtype=torch.float32)


def test_four_bits_of_bitsandbytes_are_counted_with_their_state() -> None:
    weight = packed(1024, 1, dtype=torch.uint8)
    nested = SimpleNamespace(absmax=floats(1), code=floats(256))
    state = SimpleNamespace(
        shape=torch.Size([32, 64]), absmax=torch.zeros(32, dtype=torch.uint8), code=floats(16), offset=floats(1)[0],
        state2=nested,
    )  # fmt: skip
    weight.quant_state = state  # type: ignore[attr-defined]
    assert lying_weights(linear(weight), HEAD, "lm_head") == Lying(1024 + 32 + 64 + 4 + 4 + 1024, 2048)


@pytest.mark.parametrize("place", ["parameter", "state"])
def test_eight_bits_of_bitsandbytes_are_counted_with_their_scales(place: str) -> None:
    weight = packed(32, 64, dtype=torch.int8)
    module = linear(weight)
    if place == "parameter":
        weight.SCB = floats(32)  # type: ignore[attr-defined]
    else:
        module.state = SimpleNamespace(SCB=floats(32))  # type: ignore[assignment]
    assert lying_weights(module, HEAD, "lm_head") == Lying(32 * 64 + 32 * 4, 2048)


def test_fp8_is_counted_with_its_blocks_scales() -> None:
    module = linear(packed(32, 64, dtype=torch.float8_e4m3fn))
    module.weight_scale_inv = nn.Parameter(floats(2, 4), requires_grad=False)
    assert lying_weights(module, HEAD, "lm_head") == Lying(2048 + 8 * 4, 2048)


@pytest.mark.parametrize("names", [("in_features", "out_features"), ("infeatures", "outfeatures")])
def test_gptq_is_counted_with_scales_zeros_and_order(names: tuple[str, str]) -> None:
    module = nn.Module()
    setattr(module, names[0], 64)
    setattr(module, names[1], 32)
    module.register_buffer("qweight", torch.zeros(64 // 8, 32, dtype=torch.int32))
    module.register_buffer("qzeros", torch.zeros(2, 32 // 8, dtype=torch.int32))
    module.register_buffer("scales", torch.zeros(2, 32, dtype=torch.float16))
    module.register_buffer("g_idx", torch.zeros(64, dtype=torch.int32))
    assert lying_weights(module, HEAD, "lm_head") == Lying(1024 + 32 + 128 + 256, 2048)


def test_packing_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(Refused, match=r"lm_head\.weight: weights packed as torch\.uint8 in a Linear"):
        lying_weights(linear(packed(1024, dtype=torch.uint8)), HEAD, "lm_head")
    with pytest.raises(Refused, match=r"lm_head\.weight: weights packed as torch\.int8"):
        lying_weights(linear(packed(32, 64, dtype=torch.int8)), HEAD, "lm_head")
    module = nn.Module()
    module.register_buffer("qweight", torch.zeros(8, 32, dtype=torch.int32))
    with pytest.raises(Refused, match="unknown size"):
        lying_weights(module, HEAD, "lm_head")


def test_another_number_of_weights_is_refused() -> None:
    network = build_analytic_layers_from_config(small_network().config)
    with pytest.raises(Refused, match=r"lm_head: 2,048 weights, but its configuration says 131,072"):
        stored_network(network, [("lm_head", nn.Linear(64, 32, bias=False))])


def test_an_adapter_is_refused_with_what_to_do() -> None:
    wrapped = nn.Module()
    wrapped.base_layer = nn.Linear(64, 32, bias=False)
    with pytest.raises(Refused, match="merge_and_unload"):
        lying_weights(wrapped, HEAD, "lm_head")
    around = nn.ModuleDict({"model": nn.ModuleDict({"q_proj": wrapped})})
    with pytest.raises(Refused, match=r"an adapter \(Module at model\.q_proj\); hook what its merge_and_unload"):
        refuse_adapters(around)
    refuse_adapters(nn.ModuleDict({"q_proj": wrapped.base_layer}))


def test_the_vendors_list_of_experts_is_found_in_its_mixture() -> None:
    network = build_analytic_layers_from_config(small_network().config)
    mixture = nn.Module()
    one = {"gate_proj": (256, 128), "up_proj": (256, 128), "down_proj": (128, 256)}
    mixture.experts = nn.ModuleList(
        nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in one.items()}) for _ in range(8)
    )
    experts = network.layers[1].mlp.experts  # type: ignore[union-attr]
    assert lying_weights(mixture, experts, "decoder.1.moe.experts") == Lying(8 * 3 * 256 * 128 * 4, 8 * 3 * 256 * 128)


def test_the_element_type_is_that_of_the_unpacked_weights() -> None:
    module = nn.Sequential(linear(packed(4096, dtype=torch.uint8)), nn.Linear(8, 8).half(), nn.LayerNorm(8))
    assert element_type(module) == "float16"
    with pytest.raises(Refused, match="its weights are"):
        element_type(linear(packed(4096, dtype=torch.uint8)))
