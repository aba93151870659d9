"""A real run of a small network on the CPU: a prompt and three steps."""

import pytest
from attrs import evolve

from dsocr_nvtx.analytic import build_analytic_layers_from_config
from dsocr_nvtx.analytic.layer import total
from dsocr_nvtx.schema.records import CallShape

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402 - needs what was just made sure of

from tests.analytic.networks import CACHE, small_network  # noqa: E402
from tests.analytic.opbytes import OpBytes  # noqa: E402


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_run_counts_and_moves_what_torch_does(dtype: str) -> None:
    network = small_network().to(getattr(torch, dtype))
    network.set_attn_implementation({"text_config": "eager"})
    network.set_experts_implementation("eager")
    layers = build_analytic_layers_from_config(network.config)
    kv = transformers.DynamicCache(config=network.config.text_config)
    ids = torch.randint(0, 500, (2, 60), generator=torch.Generator().manual_seed(0))
    prompt = CallShape(batch=2, tokens=60, kv_len=60, dtype=dtype, attention="eager", experts="eager")
    shapes = [prompt, *(evolve(prompt, tokens=1, kv_len=61 + step) for step in range(3))]
    hits: list[int] = []
    moe = network.model.language_model.layers[1].mlp
    handle = moe.gate.register_forward_hook(lambda _module, _args, out: hits.append(out[2].unique().numel()))
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as flops, OpBytes() as moved:
            for shape in shapes:
                network(input_ids=ids[:, : shape.tokens], **{CACHE: kv}, use_cache=True, logits_to_keep=1)
    finally:
        handle.remove()
        network.to(torch.bfloat16)
    cost = total(layers.cost(shape, hit) for shape, hit in zip(shapes, hits, strict=True))
    assert cost.tensor_flops_unmasked == flops.get_total_flops()
    assert cost.op_bytes == pytest.approx(moved.total, rel=0.05)
