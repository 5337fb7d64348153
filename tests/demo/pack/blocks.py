"""Parts of the denoisers: embedding, residual block, attention."""

import torch
from torch import nn
from torch.nn import functional as F


class Condition(nn.Module):
    """Noise level (B,) and words (B, E) to one embedding (B, width)."""

    def __init__(self, words: int, width: int):
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, 4, 16)), persistent=False)
        self.level = nn.Linear(32, width)
        self.words = nn.Linear(words, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, level: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        phase = level[:, None] * self.frequencies.to(level)
        waves = torch.cat([phase.sin(), phase.cos()], 1)
        return F.silu(self.out(F.silu(self.level(waves) + self.words(words))))


class Block(nn.Module):
    """Residual pair of 3x3 convolutions, scaled and shifted by the embedding."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulate = nn.Linear(width, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels, affine=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, 1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return x + h


class Attention(nn.Module):
    """Self-attention over the places of a small map, so that a shape agrees with itself."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(3, 4).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(2, 3).reshape(b, c, h, w))
