"""The denoiser: convolutions on the latents and, on 2x2 patches, a transformer that reads words."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Words(nn.Embedding):
    """Numbers of words (B, L) to vectors (B, L, E); 0 is no word and gives zeros."""

    def __init__(self, words: int, size: int = 128):
        super().__init__(words + 1, size, padding_idx=0)


class Condition(nn.Module):
    """Time (B,), from 0 (picture) to 1 (noise), and words (B, L, E) to one vector (B, width)."""

    frequencies: torch.Tensor

    def __init__(self, words: int, width: int):
        super().__init__()
        frequencies = math.pi * torch.exp(torch.linspace(0, 4, 32))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.time = nn.Linear(64, width)
        self.words = nn.Linear(words, width)
        self.inner = nn.Linear(width, width)

    def forward(self, time: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        phase = time[:, None] * self.frequencies.to(time)
        waves = self.time(torch.cat([phase.sin(), phase.cos()], 1))
        return F.silu(self.inner(F.silu(waves + self.words(words.sum(1)))))


def modulated_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Layer norm over the last dimension, scaled and shifted."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class ConvolutionBlock(nn.Module):
    """Residual pair of 3x3 convolutions on maps (B, C, H, W) that lie channels last."""

    def __init__(self, channels: int, condition: int):
        super().__init__()
        self.modulate = nn.Linear(condition, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulate(condition)[:, None, None].chunk(2, -1)
        hidden = modulated_norm(x.permute(0, 2, 3, 1), scale, shift).permute(0, 3, 1, 2)
        return x + self.conv2(F.silu(self.conv1(hidden)))


class TransformerBlock(nn.Module):
    """Attention among all tokens, then a gated layer of their own, both modulated."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        hidden = 32 * round(width * 8 / 3 / 32)
        self.modulate = nn.Parameter(torch.zeros(6 * width))
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.mix = nn.Linear(width, width, bias=False)
        self.widen = nn.Linear(width, 2 * hidden, bias=False)
        self.narrow = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.narrow.weight)

    def attend(self, x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        split = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        query = rotate(F.layer_norm(query, query.shape[-1:]), turn) * self.temperature
        key = rotate(F.layer_norm(key, key.shape[-1:]), turn)
        # Spelled out: the backward pass of torch's fused attention is slow on CPUs.
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        return self.mix((weights.to(value) @ value).transpose(1, 2).flatten(2))

    def forward(
        self, x: torch.Tensor, modulation: torch.Tensor, turn: torch.Tensor
    ) -> torch.Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = (modulation + self.modulate)[:, None].chunk(
            6, -1
        )
        x = x + (1 + gate1) * self.attend(modulated_norm(x, scale1, shift1), turn)
        gate, value = self.widen(modulated_norm(x, scale2, shift2)).chunk(2, -1)
        return x + (1 + gate2) * self.narrow(F.silu(gate) * value)


def rotary_turn(height: int, width: int, words: int, size: int) -> torch.Tensor:
    """Cosines and sines (2, words + height x width, size / 2) of the places; words have none."""
    speeds = torch.exp(torch.linspace(0, -3, size // 4))
    rows = torch.arange(height)[:, None, None] * speeds
    columns = torch.arange(width)[None, :, None] * speeds
    shape = (height, width, size // 4)
    angles = torch.cat([rows.expand(shape), columns.expand(shape)], -1).flatten(0, 1)
    angles = F.pad(angles, (0, 0, words, 0))
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Turn the two halves of each vector by the angles of its place."""
    cosine, sine = turn.to(x)
    left, right = x.chunk(2, -1)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], -1)


class Denoiser(nn.Module):
    """Noisy latents (B, 4, H, W), time (B,) and word vectors (B, L, E) to velocities.

    Height and width are even numbers. The velocity is noise minus picture.
    """

    def __init__(
        self,
        latent: int = 4,
        words: int = 128,
        channels: int = 96,
        convolutions: int = 2,
        width: int = 256,
        depth: int = 8,
    ):
        super().__init__()
        self.head_size = 64
        self.condition = Condition(words, width)
        self.stem = nn.Conv2d(latent, channels, 3, padding=1)
        self.down = self.blocks(convolutions, channels, width)
        self.to_tokens = nn.Linear(4 * channels, width)
        self.read_words = nn.Linear(words, width)
        self.modulate = nn.Linear(width, 6 * width)
        self.transformer = nn.ModuleList(
            [TransformerBlock(width, width // self.head_size) for _ in range(depth)]
        )
        self.from_tokens = nn.Linear(width, 4 * channels)
        self.up = self.blocks(convolutions, channels, width)
        self.out = nn.Conv2d(channels, latent, 3, padding=1)
        for layer in (self.modulate, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @staticmethod
    def blocks(count: int, channels: int, condition: int) -> nn.ModuleList:
        return nn.ModuleList([ConvolutionBlock(channels, condition) for _ in range(count)])

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        condition = self.condition(time, context)
        fine = self.stem(x.contiguous(memory_format=torch.channels_last))
        for block in self.down:
            fine = block(fine, condition)
        coarse = F.pixel_unshuffle(fine, 2)
        height, width = coarse.shape[-2:]
        patches = self.to_tokens(coarse.flatten(2).transpose(1, 2))
        tokens = torch.cat([self.read_words(context), patches], 1)
        turn = rotary_turn(height, width, context.shape[1], self.head_size).to(x.device)
        modulation = self.modulate(condition)
        for layer in self.transformer:
            tokens = layer(tokens, modulation, turn)
        patches = self.from_tokens(F.layer_norm(tokens[:, context.shape[1] :], tokens.shape[-1:]))
        coarse = patches.transpose(1, 2).unflatten(2, (height, width))
        fine = fine + F.pixel_shuffle(coarse, 2).contiguous(memory_format=torch.channels_last)
        for block in self.up:
            fine = block(fine, condition)
        fine = F.layer_norm(fine.permute(0, 2, 3, 1), fine.shape[1:2]).permute(0, 3, 1, 2)
        return self.out(F.silu(fine))


class EmojiModel(nn.Module):
    """The denoiser with the vectors of its words."""

    def __init__(self, words: int, **options: int):
        super().__init__()
        self.words = Words(words)
        self.denoiser = Denoiser(**options)

    def forward(self, x: torch.Tensor, time: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return self.denoiser(x, time, self.words(words))
