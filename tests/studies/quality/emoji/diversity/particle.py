"""Particle guidance: the estimates of a batch repel each other.

The log of the joint density gets a potential of all n estimates w (flattened x̂0), whose gradient
moves each of them away from its neighbours:

    log Φ = −½ Σ_ij exp(−‖w_i − w_j‖² / h),  i ≠ j         h = m² / ln n
    w_i ← w_i + a · v · h/2 · ∂ log Φ/∂w_i = w_i + a · v · Σ_j exp(−‖w_i − w_j‖²/h) (w_i − w_j)

m is the median distance of the batch. How strong the potential is at each noise level is left open
by the method. Here it is a · h/2 times v = σ²/(1 + σ²), the share of the variance of a latent that
noise of level σ hides. As in its experiments with Stable Diffusion it acts down to σ = 1. The
kernel there compares noisy latents, or features of the decoded estimates at the cost of a backward
pass; here it compares the estimates, at no cost.

References:
    Corso et al., Particle Guidance: non-I.I.D. Diverse Sampling with Diffusion Models, ICLR 2024.
    https://arxiv.org/abs/2310.13102
"""

import math

from mmd_tests.studies.quality.emoji.sampling import Estimate, Rule, Run
from mmd_tests.studies.quality.metrics import median_distance, sq_distance_matrix
from torch import Tensor

LEAST_LEVEL = 1.0


def bandwidth(estimates: Tensor) -> float:
    """h of estimates (n, *)."""
    return median_distance(sq_distance_matrix(estimates)) ** 2 / math.log(len(estimates))


def repelled(estimates: Tensor, h: float) -> Tensor:
    """h/2 · ∂ log Φ/∂w_i, with the shape of the estimates `(n, *)`."""
    rows = estimates.flatten(1)
    away = rows[:, None] - rows
    values = (-away.square().sum(2) / h).exp()
    return (values[:, :, None] * away).sum(1).view_as(estimates)


def by_particles(run: Run, strength: float) -> Rule:
    """Guidance of one batch with a = `strength`."""

    def rule(estimate: Estimate, x: Tensor, sigma: float) -> Tensor:
        clean, level = estimate(x).clean, run.rules.noise.level(sigma)
        if level < LEAST_LEVEL:
            return clean
        hidden = 1 / (1 + level**-2)
        return clean + strength * hidden * repelled(clean, bandwidth(clean))

    return rule
