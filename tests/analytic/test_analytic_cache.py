from typing import Any

import pytest

from dsocr_nvtx.analytic import build_analytic_layers_from_config
from dsocr_nvtx.schema.records import CallShape

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.analytic.networks import empty, kv_cache, true_network  # noqa: E402 - needs what was just made sure of


def held(kv: Any) -> int:
    return sum(t.numel() * t.element_size() for layer in kv.layers for t in (layer.keys, layer.values))


@pytest.mark.parametrize("slots", [0, 256])
@pytest.mark.parametrize("batch", [1, 3])
def test_kv_bytes_are_those_of_the_caches_own_tensors(batch: int, slots: int) -> None:
    network = true_network(layers=2)
    layers = build_analytic_layers_from_config(network.config)
    kv, keys, written = kv_cache(network, batch, slots=slots), 0, 0
    for tokens in (100, *[1] * 16):
        keys += tokens
        for index in range(2):
            new = empty(batch, 10, tokens, 128)
            kv.update(new, new, index)
        shape = CallShape(batch=batch, tokens=tokens, kv_len=keys, kv_slots=slots)
        assert layers.kv_cache_bytes(shape) == held(kv)
        cost = layers.cost(shape)
        written += cost.kv_write_bytes
        assert cost.kv_read_bytes == written  # every key so far is read, and was written once
        if not slots:
            assert written == held(kv)
        assert layers.forward_memory_kvcache(shape) * 10**9 == pytest.approx(held(kv))
