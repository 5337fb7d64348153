"""The denoiser of the world *shapes*: a small U-Net with its weight at 8x8 and 16x16."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import Attention, Block, Condition


class UNet(nn.Module):
    """Pictures (B, 3, 32, 32), levels (B,), context (B, 1, words) to outputs (B, 3, 32, 32)."""

    def __init__(self, words: int = 9, fine: int = 16, middle: int = 48, deep: int = 112):
        super().__init__()
        width = 128
        self.condition = Condition(words, width)
        self.stem = nn.Conv2d(3, fine, 3, padding=1)
        self.down1 = nn.Conv2d(fine, middle, 2, stride=2)
        self.enter = nn.ModuleList([Block(middle, width)])
        self.down2 = nn.Conv2d(middle, deep, 2, stride=2)
        self.center = nn.ModuleList([Block(deep, width) for _ in range(4)])
        self.attention = nn.ModuleList([Attention(deep) for _ in range(2)])
        self.up2 = nn.Conv2d(deep, 4 * middle, 1)
        self.leave = nn.ModuleList([Block(middle, width) for _ in range(2)])
        self.up1 = nn.Conv2d(middle, 4 * fine, 1)
        self.polish = Block(fine, width)
        self.norm = nn.GroupNorm(8, fine)
        self.out = nn.Conv2d(fine, 3, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x, timesteps, context=None, **_ignored) -> torch.Tensor:
        embedding = self.condition(timesteps, context.amax(1))
        fine = self.stem(x)
        middle = self.down1(fine)
        for block in self.enter:
            middle = block(middle, embedding)
        deep = self.down2(middle)
        for index, block in enumerate(self.center):
            deep = block(deep, embedding)
            if index % 2:
                deep = self.attention[index // 2](deep)
        middle = (middle + F.pixel_shuffle(self.up2(deep), 2)) * math.sqrt(0.5)
        for block in self.leave:
            middle = block(middle, embedding)
        fine = (fine + F.pixel_shuffle(self.up1(middle), 2)) * math.sqrt(0.5)
        return self.out(F.silu(self.norm(self.polish(fine, embedding))))
