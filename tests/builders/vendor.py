"""The vendor's layout of DeepSeek-OCR, small and in torch alone: module tree, names, signatures and call habits.

What its remote code does otherwise than the native network, and hooks must bear: the vision towers lie beside the
decoder's layers, and run inside the model's forward, tiles first; the head computes every row, in float32; a cache may
be a tuple of tuples.
"""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn

from tests.builders.vendor_decoder import DeepseekV2DecoderLayer, DeepseekV2RMSNorm, DynamicCache, Legacy
from tests.builders.vendor_vision import ImageEncoderViT, MlpProjector, VitModel


class Outputs(NamedTuple):
    """What the model and its decoder return: the logits or hidden states, and the cache."""

    logits: torch.Tensor
    past_key_values: Any = None


class DeepseekV2Model(nn.Module):
    """The decoder without its head."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DeepseekV2DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = DeepseekV2RMSNorm(config.hidden_size)

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None, past_key_values: DynamicCache | Legacy | None = None,
        inputs_embeds: torch.Tensor | None = None, use_cache: bool | None = None,
    ) -> Outputs:  # fmt: skip
        """Return hidden states, and the cache in the form in which it came: old tuples where none was given."""
        x: torch.Tensor = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache, legacy = past_key_values, False
        if use_cache and not isinstance(cache, DynamicCache):
            cache, legacy = DynamicCache.from_legacy_cache(cache), True
        held = cache.get_usable_length(x.shape[1]) if use_cache and isinstance(cache, DynamicCache) else 0
        if position_ids is None:
            position_ids = torch.arange(held, held + x.shape[1])[None].expand(x.shape[0], -1)
        mask = _causal(x, held, attention_mask)
        for layer in self.layers:
            told = layer(x, attention_mask=mask, position_ids=position_ids, past_key_value=cache, use_cache=use_cache)
            x = told[0]
        x = self.norm(x)
        return Outputs(x, cache.to_legacy_cache() if legacy and isinstance(cache, DynamicCache) else cache)


def _causal(x: torch.Tensor, held: int, mask: torch.Tensor | None) -> torch.Tensor:
    """Return [B, 1, S, held + S] to add to scores; ``mask`` [B, held + S] has 0 for keys that are padding."""
    batch, count, _ = x.shape
    seen = torch.ones(count, held + count, dtype=torch.bool).tril(held).expand(batch, 1, -1, -1)
    if mask is not None:
        seen = seen & mask[:, None, None, : held + count].bool()
    return torch.where(seen, 0.0, torch.finfo(x.dtype).min).to(x.dtype)


class DeepseekOCRModel(DeepseekV2Model):
    """The decoder with the vision towers among its attributes."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        sam, clip = config.vision_config.width["sam_vit_b"], config.vision_config.width["clip-l-14-224"]
        self.sam_model = ImageEncoderViT(
            sam["width"], sam["layers"], sam["heads"], sam["global_attn_indexes"], sam["downsample_channels"]
        )
        self.vision_model = VitModel(
            clip["width"], clip["layers"], clip["heads"], clip["image_size"], clip["patch_size"]
        )
        self.projector = MlpProjector(clip["width"] + sam["downsample_channels"][-1], config.hidden_size)
        self.image_newline = nn.Parameter(torch.zeros(config.hidden_size))
        self.view_seperator = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None, past_key_values: DynamicCache | Legacy | None = None,
        inputs_embeds: torch.Tensor | None = None, use_cache: bool | None = None,
        images: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
        images_seq_mask: torch.Tensor | None = None, images_spatial_crop: torch.Tensor | None = None,
    ) -> Outputs:  # fmt: skip
        """Put image features where the mask says, and run the decoder. ``images``: (tiles, global view) of pages."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if images is not None and input_ids.shape[1] != 1 and torch.sum(images[0][1]).item() != 0:
            assert images_seq_mask is not None
            assert images_spatial_crop is not None
            for number, (views, crop) in enumerate(zip(images, images_spatial_crop, strict=True)):
                rows = torch.cat(list(self._features(*views, crop)))
                inputs_embeds[number].masked_scatter_(images_seq_mask[number][:, None], rows)
        return super().forward(
            input_ids=None, attention_mask=attention_mask, past_key_values=past_key_values,
            inputs_embeds=inputs_embeds, use_cache=use_cache, position_ids=position_ids,
        )  # fmt: skip

    @torch.no_grad()
    def _features(self, patches: torch.Tensor, image: torch.Tensor, crop: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the rows of the tiles, where there are any, of the global view, and the separator."""
        across, down = crop.tolist()
        if torch.sum(patches).item() != 0:
            yield self._lines(self._encoded(patches), down, across)
        yield self._lines(self._encoded(image), 1, 1)
        yield self.view_seperator[None]

    def _encoded(self, pixels: torch.Tensor) -> Any:
        first = self.sam_model(pixels)
        second = self.vision_model(pixels, first)
        return self.projector(torch.cat((second[:, 1:], first.flatten(2).permute(0, 2, 1)), dim=-1))

    def _lines(self, rows: torch.Tensor, down: int, across: int) -> torch.Tensor:
        """Return the rows of ``down`` x ``across`` square views as one picture's, with a newline after every line."""
        side, width = round(rows.shape[1] ** 0.5), rows.shape[-1]
        grid = rows.view(down, across, side, side, width).permute(0, 2, 1, 3, 4)
        grid = grid.reshape(down * side, across * side, width)
        return torch.cat([grid, self.image_newline.expand(down * side, 1, width)], dim=1).flatten(0, 1)


class DeepseekOCRForCausalLM(nn.Module):
    """The whole model."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.model = config, DeepseekOCRModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None, past_key_values: DynamicCache | Legacy | None = None,
        inputs_embeds: torch.Tensor | None = None, labels: None = None, use_cache: bool | None = None,
        images: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
        images_seq_mask: torch.Tensor | None = None, images_spatial_crop: torch.Tensor | None = None,
    ) -> Outputs:  # fmt: skip
        """Return logits of every row, and the cache."""
        assert labels is None
        outputs = self.model(
            input_ids=input_ids, past_key_values=past_key_values, attention_mask=attention_mask,
            position_ids=position_ids, inputs_embeds=inputs_embeds, use_cache=use_cache, images=images,
            images_seq_mask=images_seq_mask, images_spatial_crop=images_spatial_crop,
        )  # fmt: skip
        return Outputs(self.lm_head(outputs[0]).float(), outputs.past_key_values)


def vendor_config(experts: int = 6, layers: int = 3) -> Any:
    """Return a small configuration in the vendor's form: the decoder's fields flat, the towers' under ``width``."""
    width = {
        "sam_vit_b": {
            "width": 32, "layers": 3, "heads": 2, "global_attn_indexes": [2], "downsample_channels": [40, 48],
        },
        "clip-l-14-224": {"width": 48, "layers": 2, "heads": 4, "image_size": 56, "patch_size": 14},
    }  # fmt: skip
    return SimpleNamespace(
        model_type="DeepseekOCR", vocab_size=300, hidden_size=64, intermediate_size=160, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=experts, n_shared_experts=2,
        num_experts_per_tok=2, moe_intermediate_size=32, first_k_dense_replace=1, use_mla=False, use_cache=True,
        vision_config=SimpleNamespace(width=width),
    )  # fmt: skip


def vendor_model(experts: int = 6, layers: int = 3, seed: int = 0) -> Any:
    """Return the stand-in with seeded weights."""
    model = DeepseekOCRForCausalLM(vendor_config(experts, layers)).eval().requires_grad_(False)
    noise = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" not in name:
            parameter.normal_(0.0, 0.02, generator=noise)
    return model


def vendor_page(config: Any, side: int = 128, tile: int = 64, crop: tuple[int, int] = (2, 1)) -> dict[str, Any]:
    """Return one page's prompt: ``input_ids``, and the images with their places; views of noise, sides in pixels."""
    noise = torch.Generator().manual_seed(1)
    across, down = crop
    line, square = tile // 64, side // 64
    images = down * line * (across * line + 1) + square * (square + 1) + 1
    ids = torch.randint(2, config.vocab_size, (1, images + 6), generator=noise)
    places = torch.zeros_like(ids, dtype=torch.bool)
    places[:, 1 : 1 + images] = True
    views = (torch.randn(across * down, 3, tile, tile, generator=noise), torch.randn(1, 3, side, side, generator=noise))
    return {
        "input_ids": ids, "images": [views], "images_seq_mask": places, "images_spatial_crop": torch.tensor([crop]),
    }  # fmt: skip
