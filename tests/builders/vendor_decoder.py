"""The decoder's parts in the vendor's layout, small: a cache, attention, mixture and layer as its remote code has them.

Layers return tuples and take ``past_key_value``; rotary positions are computed in every attention; routed experts are
modules that a method of the mixture runs; the gate returns (indices, weights, loss).
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

Legacy = tuple[tuple[torch.Tensor, torch.Tensor], ...]


class DynamicCache(nn.Module):
    """A cache as transformers had it up to 4.47: a module, with a list of keys and one of values."""

    def __init__(self) -> None:
        super().__init__()
        self._seen_tokens = 0
        self.key_cache: list[torch.Tensor] = []
        self.value_cache: list[torch.Tensor] = []

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Append a layer's new keys and values, and return all of them."""
        if layer_idx == 0:
            self._seen_tokens += key.shape[-2]
        if len(self.key_cache) <= layer_idx:
            self.key_cache.append(key)
            self.value_cache.append(value)
        else:
            self.key_cache[layer_idx] = torch.cat([self.key_cache[layer_idx], key], dim=-2)
            self.value_cache[layer_idx] = torch.cat([self.value_cache[layer_idx], value], dim=-2)
        return self.key_cache[layer_idx], self.value_cache[layer_idx]

    def __len__(self) -> int:
        return len(self.key_cache)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens a layer holds."""
        return self.key_cache[layer_idx].shape[-2] if len(self.key_cache) > layer_idx else 0

    def get_usable_length(self, new_seq_length: int, layer_idx: int = 0) -> int:
        """Return how many tokens a layer holds: this cache has no end that ``new_seq_length`` could pass."""
        return self.get_seq_length(layer_idx) + 0 * new_seq_length

    @classmethod
    def from_legacy_cache(cls, past: Legacy | None = None) -> "DynamicCache":
        """Return a cache of the oldest form's tensors."""
        cache = cls()
        for layer, (key, value) in enumerate(past or ()):
            cache.update(key, value, layer)
        return cache

    def to_legacy_cache(self) -> Legacy:
        """Return the oldest form: (keys, values) for each layer."""
        return tuple(zip(self.key_cache, self.value_cache, strict=True))


class DeepseekV2RMSNorm(nn.Module):
    """A norm without a mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        return self.weight * hidden_states * torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + 1e-6)


class DeepseekV2MLP(nn.Module):
    """The gated feed-forward: a dense layer's, the shared experts', and each routed expert's."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> Any:
        """Keep the shape."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class MoEGate(nn.Module):
    """Chooses experts for each row, in float32."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Return (indices [T, k], weights [T, k], no loss)."""
        rows = hidden_states.view(-1, hidden_states.shape[-1])
        scores = functional.linear(rows.float(), self.weight.float()).softmax(dim=-1)
        weights, indices = torch.topk(scores, k=self.top_k, dim=-1, sorted=False)
        return indices, weights, None


class DeepseekV2MoE(nn.Module):
    """A mixture of experts, each of which is a module."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.moe_intermediate_size
        self.experts = nn.ModuleList(DeepseekV2MLP(width, inner) for _ in range(config.n_routed_experts))
        self.gate = MoEGate(config)
        self.shared_experts = DeepseekV2MLP(width, inner * config.n_shared_experts)

    def forward(self, hidden_states: torch.Tensor) -> Any:
        """Keep the shape [B, S, width]."""
        indices, weights, _ = self.gate(hidden_states)
        rows = hidden_states.view(-1, hidden_states.shape[-1])
        routed = self.moe_infer(rows, indices, weights).view(hidden_states.shape)
        return routed + self.shared_experts(hidden_states)

    @torch.no_grad()
    def moe_infer(self, x: torch.Tensor, topk_ids: torch.Tensor, topk_weight: torch.Tensor) -> torch.Tensor:
        """Run the experts that were chosen one after the other, and put their results back into the rows' order."""
        counts = torch.bincount(topk_ids.flatten(), minlength=len(self.experts)).cpu().numpy()
        order = topk_ids.flatten().argsort()
        rows, found, start = x[order // topk_ids.shape[1]], [], 0
        for number, count in enumerate(counts):
            if count:
                found.append(self.experts[number](rows[start : start + count]))
                start += count
        joined = torch.empty_like(rows)
        joined[order] = torch.cat(found)
        return (joined.view(*topk_ids.shape, -1) * topk_weight.unsqueeze(-1)).sum(dim=1)


class LlamaRotaryEmbedding(nn.Module):
    """Angles of positions; every attention has its own."""

    def __init__(self, head: int) -> None:
        super().__init__()
        self.inv_freq = nn.Buffer(10_000 ** -(torch.arange(0, head, 2) / head), persistent=False)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (cosine, sine), each [B, S, head]."""
        angles = position_ids[..., None].float() * self.inv_freq
        both = torch.cat([angles, angles], dim=-1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)


class LlamaAttention(nn.Module):
    """Causal attention, eager."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads, self.layer_idx = config.num_attention_heads, layer_idx
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.rotary_emb = LlamaRotaryEmbedding(width // self.num_heads)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None, past_key_value: DynamicCache | None = None,
        output_attentions: bool = False, use_cache: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, DynamicCache | None]:  # fmt: skip
        """Return (hidden states, attention weights where they are asked for, cache)."""
        batch, count, width = hidden_states.shape
        query, key, value = (
            project(hidden_states).view(batch, count, self.num_heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        cosine, sine = self.rotary_emb(value, position_ids)
        query, key = _turned(query, cosine, sine), _turned(key, cosine, sine)
        if past_key_value is not None and use_cache:
            key, value = past_key_value.update(key, value, self.layer_idx)
        scores = query @ key.transpose(2, 3) / (width // self.num_heads) ** 0.5
        weights = (scores if attention_mask is None else scores + attention_mask).softmax(dim=-1)
        found = self.o_proj((weights @ value).transpose(1, 2).reshape(batch, count, width))
        return found, weights if output_attentions else None, past_key_value


def _turned(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cosine[:, None] + torch.cat([-second, first], dim=-1) * sine[:, None]


class DeepseekV2DecoderLayer(nn.Module):
    """One decoder layer: dense, or a mixture of experts."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        width, dense = config.hidden_size, layer_idx < config.first_k_dense_replace
        self.self_attn = LlamaAttention(config, layer_idx)
        self.mlp = DeepseekV2MLP(width, config.intermediate_size) if dense else DeepseekV2MoE(config)
        self.input_layernorm, self.post_attention_layernorm = DeepseekV2RMSNorm(width), DeepseekV2RMSNorm(width)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None, past_key_value: DynamicCache | None = None,
        output_attentions: bool = False, use_cache: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Return a tuple: hidden states, attention weights where asked for, and the cache where it is used."""
        found, weights, present = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states), attention_mask=attention_mask,
            position_ids=position_ids, past_key_value=past_key_value, output_attentions=output_attentions,
            use_cache=use_cache,
        )  # fmt: skip
        hidden_states = hidden_states + found
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return (hidden_states, *((weights,) if output_attentions else ()), *((present,) if use_cache else ()))
