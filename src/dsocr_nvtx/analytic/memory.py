"""What a page holds in memory, besides what it moves: weights, the KV cache at its longest, the peak of activations."""

from collections.abc import Iterator

from attrs import frozen

from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.analytic.table import PageRequest, prompt_shape, prompt_tokens, text_shape, vision_shape
from dsocr_nvtx.schema.records import CallShape


@frozen(kw_only=True)
class PageMemory:
    """Bytes resident during a page; ``activation_bytes`` is the most that lives at once, of any of its calls."""

    weight_bytes: int
    kv_cache_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        """All three: what a GPU must hold, what the allocator leaves unused not counted."""
        return self.weight_bytes + self.kv_cache_bytes + self.activation_bytes


def page_memory(layers: DeepseekOCRModel, request: PageRequest) -> PageMemory:
    """Return the memory of a page."""
    last = last_text_shape(layers, request)
    return PageMemory(
        weight_bytes=layers.resident_bytes(last.itemsize),
        kv_cache_bytes=layers.kv_cache_bytes(last),
        activation_bytes=max(_peaks(layers, request)),
    )


def last_text_shape(layers: DeepseekOCRModel, request: PageRequest) -> CallShape:
    """Return the shape of the page's last forward, when the KV cache is largest."""
    prompt = prompt_tokens(layers, request)
    if not request.decode_tokens:
        return prompt_shape(request, prompt)
    experts = request.decode_experts or request.experts
    return text_shape(request, prompt, 1, prompt + request.decode_tokens, experts)


def _peaks(layers: DeepseekOCRModel, request: PageRequest) -> Iterator[int]:
    for view in request.views():
        yield layers.vision.peak_bytes(vision_shape(request, view))
    prompt = prompt_tokens(layers, request)
    yield layers.peak_bytes(prompt_shape(request, prompt))
    yield layers.peak_bytes(last_text_shape(layers, request))
