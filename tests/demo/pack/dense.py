"""The denoiser of the world *digits*: a residual network without convolutions."""

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import Condition


class DenseBlock(nn.Module):
    """Residual pair of linear layers (B, C), scaled and shifted by the embedding."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * channels)
        self.widen = nn.Linear(channels, 2 * channels)
        self.narrow = nn.Linear(2 * channels, channels)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulate(embedding).chunk(2, 1)
        return x + self.narrow(F.silu(self.widen(self.norm(x) * (1 + scale) + shift)))


class DenseNet(nn.Module):
    """Pictures (B, 1, 8, 8), levels (B,), context (B, 1, words) to outputs (B, 1, 8, 8)."""

    def __init__(self, words: int = 10, side: int = 8, channels: int = 256, depth: int = 4):
        super().__init__()
        self.condition = Condition(words, 128)
        self.stem = nn.Linear(side * side, channels)
        self.blocks = nn.ModuleList([DenseBlock(channels, 128) for _ in range(depth)])
        self.norm = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, side * side)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x, timesteps, context=None, **_ignored) -> torch.Tensor:
        embedding = self.condition(timesteps, context.amax(1))
        hidden = self.stem(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, embedding)
        return self.out(F.silu(self.norm(hidden))).view_as(x)
