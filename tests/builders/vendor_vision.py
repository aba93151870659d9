"""The vision half of the vendor's layout, small: its module tree, attribute names, signatures and call habits.

Towers take positional tensors and return tensors. The blocks of the second tower call ``self.self_attn.forward`` and
``self.mlp.forward`` themselves, past ``__call__``, so that torch's own hooks on those modules never run.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

WINDOW, PATCH, POSITIONS, NECK = 14, 16, 64, 256
"""What the vendor's code hard-wires for SAM: side of a window, of a patch, of the position table; the neck's width."""


class PatchEmbed(nn.Module):
    """Cuts an image into rows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take pixels [B, 3, H, W], return [B, h, w, width]."""
        rows: torch.Tensor = self.proj(x)
        return rows.permute(0, 2, 3, 1)


class MLPBlock(nn.Module):
    """SAM's feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1, self.lin2, self.act = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.GELU()

    def forward(self, x: torch.Tensor) -> Any:
        """Keep the shape."""
        return self.lin2(self.act(self.lin1(x)))


class Attention(nn.Module):
    """SAM's attention with relative positions, over [B, h, w, width]: windows or whole grids."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.num_heads, head = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, head))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, head))

    def forward(self, x: torch.Tensor) -> Any:
        """Keep the shape."""
        batch, height, width, _ = x.shape
        parts = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        grid = query.reshape(batch * self.num_heads, height, width, -1)
        down = torch.einsum("bhwc,hkc->bhwk", grid, _relative(height, self.rel_pos_h))
        across = torch.einsum("bhwc,wkc->bhwk", grid, _relative(width, self.rel_pos_w))
        bias = down[..., :, None] + across[..., None, :]
        bias = bias.reshape(batch, self.num_heads, height * width, height * width)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(found.view(batch, self.num_heads, height, width, -1).permute(0, 2, 3, 1, 4).flatten(3))


def _relative(side: int, table: torch.Tensor) -> torch.Tensor:
    """Return [side, side, head]: the table's rows by distance, resized to this side."""
    rows = functional.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T
    at = torch.arange(side)
    return rows[at[:, None] - at[None, :] + side - 1]


class Block(nn.Module):
    """One SAM layer; ``window_size`` 0 attends to the whole grid."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, window or POSITIONS)
        self.mlp, self.window_size = MLPBlock(width), window

    def forward(self, x: torch.Tensor) -> Any:
        """Keep the shape [B, h, w, width]."""
        shortcut, x = x, self.norm1(x)
        if self.window_size:
            windows, padded = _cut(x, self.window_size)
            x = _joined(self.attn(windows), self.window_size, padded, shortcut.shape)
        else:
            x = self.attn(x)
        x = shortcut + x
        return x + self.mlp(self.norm2(x))


def _cut(x: torch.Tensor, side: int) -> tuple[torch.Tensor, tuple[int, int]]:
    batch, height, width, channels = x.shape
    x = functional.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    down, across = x.shape[1] // side, x.shape[2] // side
    x = x.view(batch, down, side, across, side, channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, side, side, channels), (down, across)


def _joined(x: torch.Tensor, side: int, count: tuple[int, int], size: torch.Size) -> torch.Tensor:
    down, across = count
    x = x.view(size[0], down, across, side, side, -1).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(size[0], down * side, across * side, -1)[:, : size[1], : size[2]]


class LayerNorm2d(nn.Module):
    """A norm over channels of [B, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        x = functional.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return x.permute(0, 3, 1, 2)


class ImageEncoderViT(nn.Module):
    """SAM: pixels in, a grid of a sixteenth of the patches out, both channels first."""

    def __init__(self, width: int, layers: int, heads: int, whole: list[int], channels: list[int]) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        self.pos_embed = nn.Parameter(torch.zeros(1, POSITIONS, POSITIONS, width))
        self.blocks = nn.ModuleList(Block(width, heads, 0 if i in whole else WINDOW) for i in range(layers))
        self.neck = nn.Sequential(
            nn.Conv2d(width, NECK, kernel_size=1, bias=False), LayerNorm2d(NECK),
            nn.Conv2d(NECK, NECK, kernel_size=3, padding=1, bias=False), LayerNorm2d(NECK),
        )  # fmt: skip
        self.net_2 = nn.Conv2d(NECK, channels[0], kernel_size=3, stride=2, padding=1, bias=False)
        self.net_3 = nn.Conv2d(channels[0], channels[1], kernel_size=3, stride=2, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> Any:
        """Take [B, 3, H, W]."""
        x = self.patch_embed(x)
        table = functional.interpolate(self.pos_embed.permute(0, 3, 1, 2), size=x.shape[1:3], mode="bicubic")
        x = x + table.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        x = self.neck(x.permute(0, 3, 1, 2))
        return self.net_3(self.net_2(x).clone())


class CLIPVisionEmbeddings(nn.Module):
    """Class token and positions around patches that another tower made."""

    def __init__(self, width: int, image: int, patch: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.side = image // patch
        self.position_embedding = nn.Embedding(self.side**2 + 1, width)

    def forward(self, pixel_values: torch.Tensor, patch_embeds: torch.Tensor | None) -> torch.Tensor:
        """Return [B, 1 + patches, width]; the pixels only tell how many images there are."""
        grid = patch_embeds if patch_embeds is not None else self.patch_embedding(pixel_values)
        rows = grid.flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(pixel_values.shape[0], 1, -1)
        table = self.position_embedding.weight
        if rows.shape[1] != self.side**2:
            square = table[1:].T.reshape(1, -1, self.side, self.side)
            resized = functional.interpolate(square, size=grid.shape[2:], mode="bicubic")
            table = torch.cat([table[:1], resized.flatten(2)[0].T])
        return torch.cat([first, rows], dim=1) + table


class NoTPAttention(nn.Module):
    """CLIP's attention, queries, keys and values from one projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.qkv_proj, self.out_proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> Any:
        """Keep the shape."""
        batch, rows, _ = x.shape
        parts = self.qkv_proj(x).view(batch, rows, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        found = functional.scaled_dot_product_attention(query, key, value)
        return self.out_proj(found.permute(0, 2, 1, 3).flatten(2))


class NoTPFeedForward(nn.Module):
    """CLIP's feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> Any:
        """Keep the shape."""
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class NoTPTransformerBlock(nn.Module):
    """One CLIP layer, which runs its parts past ``__call__``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = NoTPAttention(width, heads), NoTPFeedForward(width)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> Any:
        """Keep the shape."""
        h = x + self.self_attn.forward(self.layer_norm1(x))
        return h + self.mlp.forward(self.layer_norm2(h))


class NoTPTransformer(nn.Module):
    """CLIP's layers."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(NoTPTransformerBlock(width, heads) for _ in range(layers))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class VitModel(nn.Module):
    """CLIP: the pixels, and the grid that SAM made of them."""

    def __init__(self, width: int, layers: int, heads: int, image: int, patch: int) -> None:
        super().__init__()
        self.embeddings = CLIPVisionEmbeddings(width, image, patch)
        self.transformer = NoTPTransformer(width, layers, heads)
        self.pre_layrnorm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, patch_embeds: torch.Tensor) -> Any:
        """Return [B, 1 + patches, width]."""
        return self.transformer(self.pre_layrnorm(self.embeddings(x, patch_embeds)))


class MlpProjector(nn.Module):
    """Both towers' features to the decoder's width."""

    def __init__(self, width: int, columns: int) -> None:
        super().__init__()
        self.layers = nn.Linear(width, columns)

    def forward(self, x: torch.Tensor) -> Any:
        """Take [B, rows, width], return [B, rows, columns]."""
        return self.layers(x)
