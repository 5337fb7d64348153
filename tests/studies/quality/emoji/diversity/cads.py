"""CADS: noise on the words of the prompt, less and less of it.

With y the word vectors of a prompt and t the time of the model, from 1 (noise) to 0 (picture):

    ŷ = √γ(t) · y + s · √(1 − γ(t)) · n                    n: standard normal, new at each call
    γ(t) = 1 for t ≤ τ₁,  (τ₂ − t)/(τ₂ − τ₁) between,  0 for t ≥ τ₂
    ŷ ← ψ · ((ŷ − mean ŷ)/std ŷ · std y + mean y) + (1 − ψ) · ŷ

Means and standard deviations are those of all numbers of one prompt. What stands for no word stays
as it is, and so do calls without a prompt. τ₁, τ₂ and ψ are the paper's for Stable Diffusion.

References:
    Sadat et al., CADS: Unleashing the Diversity of Diffusion Models through Condition-Annealed
    Sampling, ICLR 2024. https://arxiv.org/abs/2310.17347
"""

import math

import torch
from mmd_demo.emoji.denoiser import EmojiModel
from torch import Tensor

TAU1, TAU2, PSI = 0.6, 0.9, 1.0


def share_of_prompt(time: float, tau1: float = TAU1, tau2: float = TAU2) -> float:
    """γ(t), in [0, 1]."""
    return min(1.0, max(0.0, (tau2 - time) / (tau2 - tau1)))


def _moments(values: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, 1, 1) of the numbers (B, L, E) of the words (B, L, 1)."""
    count = (kept.sum((1, 2), keepdim=True) * values.shape[2]).clamp_min(1)
    mean = (values * kept).sum((1, 2), keepdim=True) / count
    variance = ((values - mean).square() * kept).sum((1, 2), keepdim=True) / count
    return mean, variance.sqrt()


def annealed(
    vectors: Tensor, kept: Tensor, share: float, scale: float, noise: Tensor, psi: float = PSI
) -> Tensor:
    """ŷ, with the shape of `vectors`.

    Arguments:
        vectors: Word vectors y, with shape `(B, L, E)`.
        kept: Where there is a word, 0 or 1, with shape `(B, L, 1)`.
        share: γ.
        scale: s.
        noise: n, with the shape of `vectors`.
    """
    mixed = (math.sqrt(share) * vectors + scale * math.sqrt(1 - share) * noise) * kept
    (mean, deviation), (own_mean, own_deviation) = (
        _moments(each, kept) for each in (mixed, vectors)
    )
    tiny = torch.finfo(mixed.dtype).tiny
    rescaled = (mixed - mean) / deviation.clamp_min(tiny) * own_deviation + own_mean
    return (psi * rescaled + (1 - psi) * mixed) * kept


class Annealing:
    """A model of the emoji world that reads its prompts through noise.

    Arguments:
        scale: s.
        generator: Draws the noise.
    """

    def __init__(self, model: EmojiModel, scale: float, generator: torch.Generator) -> None:
        self.model, self.scale, self.generator = model, scale, generator

    def __call__(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        """The velocity of noisy latents (B, 4, H, W) at times (B,) with words (B, L)."""
        vectors = self.model.words(words)
        share = share_of_prompt(time[0].item())
        if share < 1:
            noise = torch.randn(vectors.shape, generator=self.generator).to(vectors)
            kept = (words != 0)[:, :, None].to(vectors)
            vectors = annealed(vectors, kept, share, self.scale, noise)
        return self.model.denoiser(x, time, vectors)
