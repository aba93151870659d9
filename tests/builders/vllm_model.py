"""vLLM's layout of DeepSeek-OCR, small and in torch alone: module tree, names, signatures and call habits.

Rows of all sequences lie flat, [T, width]; norms add the residual and return it; linear layers return (y, None); the
experts are given the hidden state as router logits and call gate and shared experts themselves; the head's own module
is never called. Which rows are whose, and the cached keys and values, are in ``CONTEXT``, as in vLLM's forward context.
"""

from types import SimpleNamespace
from typing import Any

import torch
from attrs import define, field
from torch import nn
from torch.nn import functional

from tests.builders.vendor import vendor_config
from tests.builders.vendor_vision import ImageEncoderViT, MlpProjector, VitModel


@define
class Context:
    """The sequences of the forward under way, as (request, rows), and what is cached of every request and layer."""

    sequences: list[tuple[str, int]] = field(factory=list)
    cached: dict[tuple[str, int], torch.Tensor] = field(factory=dict)


CONTEXT = Context()


class Linear(nn.Module):
    """vLLM's linear layers return their bias beside the result."""

    def __init__(self, width: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(columns, width))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Take [T, width], return [T, columns]."""
        return functional.linear(x, self.weight), None


class RMSNorm(nn.Module):
    """A norm that adds the residual, where there is one, and returns it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        """Keep the shape."""
        if residual is not None:
            x = residual = x + residual
        normed = functional.rms_norm(x, (x.shape[-1],), self.weight)
        return normed if residual is None else (normed, residual)


class MLP(nn.Module):
    """A gated feed-forward with one joint first product."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = Linear(width, 2 * inner), Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        gate, up = self.gate_up_proj(x)[0].chunk(2, dim=-1)
        down: torch.Tensor = self.down_proj(functional.silu(gate) * up)[0]
        return down


class FusedMoE(nn.Module):
    """The routed experts, with gate and shared experts inside: one call does all three."""

    def __init__(self, config: Any, gate: nn.Module, shared_experts: nn.Module) -> None:
        super().__init__()
        width, inner, count = config.hidden_size, config.moe_intermediate_size, config.n_routed_experts
        self.top_k = config.num_experts_per_tok
        self.w13_weight = nn.Parameter(torch.zeros(count, 2 * inner, width))
        self.w2_weight = nn.Parameter(torch.zeros(count, width, inner))
        self.inside = (gate, shared_experts)  # no children of its own: they are the mixture's
        self.is_internal_router = True

    def forward(self, hidden_states: torch.Tensor, router_logits: torch.Tensor) -> torch.Tensor:
        """Keep the shape; ``router_logits`` is the hidden state."""
        gate, shared_experts = self.inside
        logits, _ = gate(router_logits)
        weights, chosen = logits.softmax(-1).topk(self.top_k)
        result: torch.Tensor = shared_experts(hidden_states)
        for place in range(self.top_k):
            expert = chosen[:, place]
            first, up = torch.einsum("tw,tiw->ti", hidden_states, self.w13_weight[expert]).chunk(2, dim=-1)
            down = torch.einsum("ti,twi->tw", functional.silu(first) * up, self.w2_weight[expert])
            result = result + weights[:, place, None] * down
        return result


class MoE(nn.Module):
    """A mixture of experts."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gate = Linear(config.hidden_size, config.n_routed_experts)
        inner = config.moe_intermediate_size * config.n_shared_experts
        self.shared_experts = MLP(config.hidden_size, inner)
        self.experts = FusedMoE(config, self.gate, self.shared_experts)

    def forward(self, hidden_states: torch.Tensor) -> Any:
        """Keep the shape."""
        return self.experts(hidden_states=hidden_states, router_logits=hidden_states)


class Attention(nn.Module):
    """Attention of all sequences, each over what is cached of it."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = config.num_attention_heads, layer
        self.qkv_proj = Linear(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> Any:
        """Keep the shape."""
        qkv, _ = self.qkv_proj(hidden_states)
        counts = [count for _, count in CONTEXT.sequences]
        counts[-1] += len(positions) - sum(counts)  # padding
        each = zip(CONTEXT.sequences, torch.split(qkv, counts), strict=True)
        return self.o_proj(torch.cat([self._one(name, rows, new) for (name, rows), new in each]))[0]

    def _one(self, name: str, rows: int, new: torch.Tensor) -> torch.Tensor:
        query, key_value = torch.split(new, [new.shape[-1] // 3, 2 * new.shape[-1] // 3], dim=-1)
        before = CONTEXT.cached.get((name, self.layer), key_value[:0])
        held = torch.cat([before, key_value[:rows]])
        CONTEXT.cached[name, self.layer] = held
        each = (query, *held.chunk(2, dim=-1))
        q, k, v = (x.reshape(len(x), self.heads, -1).transpose(0, 1) for x in each)
        mask = torch.ones(len(query), len(held), dtype=torch.bool).tril(len(held) - rows)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1).flatten(1)


class DecoderLayer(nn.Module):
    """One layer: hidden state and residual go in and come out."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        dense = layer < config.first_k_dense_replace
        self.mlp = MLP(config.hidden_size, config.intermediate_size) if dense else MoE(config)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(config.hidden_size), RMSNorm(config.hidden_size)

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None, scaling: None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the shapes."""
        assert scaling is None
        if residual is None:
            residual, hidden_states = hidden_states, self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions, hidden_states)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        assert residual is not None
        return self.mlp(hidden_states), residual


class DeepseekV2Model(nn.Module):
    """The decoder without its head."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size)

    def forward(self, positions: torch.Tensor, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Return hidden states [T, width]."""
        hidden_states, residual = inputs_embeds, None
        for layer in self.layers:
            hidden_states, residual = layer(positions, hidden_states, residual, None)
        normed: torch.Tensor = self.norm(hidden_states, residual)[0]
        return normed


class LanguageModel(nn.Module):
    """The decoder and its head, whose module is not called."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.model = DeepseekV2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return [rows, vocabulary]."""
        logits: torch.Tensor = functional.linear(hidden_states, self.lm_head.weight)
        return logits


class DeepseekOCRForCausalLM(nn.Module):
    """The whole model: towers and decoder side by side at the root."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        text, width = config.text_config, config.vision_config.width
        sam, clip = width["sam_vit_b"], width["clip-l-14-224"]
        self.sam_model = ImageEncoderViT(
            sam["width"], sam["layers"], sam["heads"], sam["global_attn_indexes"], sam["downsample_channels"]
        )
        self.vision_model = VitModel(
            clip["width"], clip["layers"], clip["heads"], clip["image_size"], clip["patch_size"]
        )
        self.projector = MlpProjector(2 * clip["width"], text.hidden_size)
        self.language_model = LanguageModel(text)

    def embed_multimodal(self, **kwargs: Any) -> list[torch.Tensor]:
        """Return the rows of each image: those of its tiles, then of its global view."""
        made, tiles = [], kwargs["images_crop"]
        for number, (across, down) in enumerate(kwargs["images_spatial_crop"].tolist()):
            views = [kwargs["pixel_values"][[number]], *([tiles[: across * down]] if across * down > 1 else [])]
            tiles = tiles[across * down :]
            made.append(torch.cat([self._encoded(view).flatten(0, 1) for view in views]))
        return made

    def _encoded(self, pixels: torch.Tensor) -> Any:
        first = self.sam_model(pixels)
        second = self.vision_model(pixels, first)
        return self.projector(torch.cat((second[:, 1:], first.flatten(2).permute(0, 2, 1)), dim=-1))

    def embed_input_ids(self, input_ids: torch.Tensor, multimodal_embeddings: list[torch.Tensor]) -> torch.Tensor:
        """Return [T, width], image rows first."""
        rows: torch.Tensor = self.language_model.model.embed_tokens(input_ids)
        images = torch.cat([rows[:0], *multimodal_embeddings])
        return torch.cat([images, rows[len(images) :]])

    def forward(
        self, input_ids: None, positions: torch.Tensor, intermediate_tensors: None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> Any:  # fmt: skip
        """Return hidden states [T, width]."""
        assert input_ids is None
        assert intermediate_tensors is None
        assert inputs_embeds is not None
        return self.language_model.model(positions, inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return [rows, vocabulary]."""
        return self.language_model.compute_logits(hidden_states)


def vllm_config() -> Any:
    """Return an engine's configuration, as far as hooks look at it, of a small model."""
    flat = vendor_config()
    text = SimpleNamespace(**{name: value for name, value in vars(flat).items() if name != "vision_config"})
    text.head_dim = 0  # as vLLM's class has it where latent attention is off
    return SimpleNamespace(
        model_config=SimpleNamespace(hf_config=SimpleNamespace(text_config=text, vision_config=flat.vision_config)),
        parallel_config=SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=1),
    )


def vllm_model(seed: int = 0) -> Any:
    """Return the stand-in with seeded weights."""
    model = DeepseekOCRForCausalLM(vllm_config().model_config.hf_config).eval().requires_grad_(False)
    noise = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" not in name:
            parameter.normal_(0.0, 0.05, generator=noise)
    return model
