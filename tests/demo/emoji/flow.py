"""Flow matching: x_t = (1 - t) picture + t noise, and the network says noise - picture."""

import torch
from mmd_demo.emoji.denoiser import EmojiModel
from mmd_demo.emoji.precision import fast_math

SHIFT = 2.0
"""How far the times lean towards noise, in training and in sampling."""


def lean(time: torch.Tensor) -> torch.Tensor:
    """Times in 0 to 1, moved towards 1 as by SHIFT times as much noise."""
    return SHIFT * time / (1 + (SHIFT - 1) * time)


def draw_times(count: int) -> torch.Tensor:
    """Times (count,), one in each part of their distribution to calm the loss."""
    rank = (torch.arange(count) + torch.rand(count)) / count
    return lean(torch.special.ndtri(rank.clamp(1e-4, 1 - 1e-4)).sigmoid())


def flow_loss(
    model: EmojiModel,
    latents: torch.Tensor,
    words: torch.Tensor,
    time: torch.Tensor,
    noise: torch.Tensor,
) -> torch.Tensor:
    """Squared error of each picture's velocity (B,)."""
    weight = time[:, None, None, None]
    noisy = (1 - weight) * latents + weight * noise
    with fast_math():
        velocity = model(noisy, time, words)
    return (velocity.float() - (noise - latents)).square().mean((1, 2, 3))
