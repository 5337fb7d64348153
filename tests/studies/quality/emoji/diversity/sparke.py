"""SPARKE: noisy latents move towards a larger order-2 Rényi kernel entropy given their prompts.

With Gaussian kernels of latents z and of prompt features y, both divided by their lengths, the
method lowers the inverse of the entropy's score by its gradient after a step of the sampler:

    L = 1/n² Σ_ij k_Z(z_i, z_j)² k_Y(y_i, y_j)²            z_i ← z_i − η ∂L/∂z_i

Here all images of the batch move at once. η is `strength` · n²/4 · ‖z_i‖², so that the share of its
length by which a latent moves depends neither on the batch nor on the size of latents. As in the
paper it acts five times in a run, with its bandwidths.

L is the part of MMD² that compares the batch with itself, with the kernels k_Z² and k_Y²: a Gaussian
squared is one whose bandwidth is divided by √2. So our repulsion with prompt weights is this method
up to the attraction to references, which it has not; `test_emoji_diversity.py` shows it.

References:
    Jalali, Lei, Gohari, Farnia, SPARKE: Scalable Prompt-Aware Diversity and Novelty Guidance in
    Diffusion Models via RKE Score, 2025. https://arxiv.org/abs/2506.10173
"""

import torch
from mmd_tests.studies.quality.emoji.sampling import Estimate, Rule, Run
from torch import Tensor
from torch.nn.functional import normalize

OF_LATENTS, OF_PROMPTS = 0.8, 0.3
TIMES = 5


def gaussian(rows: Tensor, bandwidth: float) -> Tensor:
    """Kernel values (n, n) between rows (n, E) of length 1; those without length count as equal."""
    rows = normalize(rows, dim=1)
    return (-(rows[:, None] - rows).square().sum(2) / (2 * bandwidth**2)).exp()


def gradient(latents: Tensor, by_prompt: Tensor, bandwidth: float = OF_LATENTS) -> Tensor:
    """∂L/∂z_i, with the shape of the latents `(n, *)`.

    Arguments:
        by_prompt: k_Y, with shape `(n, n)`.
        bandwidth: That of k_Z.
    """
    rows = latents.flatten(1)
    lengths = rows.norm(dim=1, keepdim=True)
    unit = rows / lengths
    pairs = (gaussian(rows, bandwidth) * by_prompt).square()
    # By the unit vectors, of which each pair has two; then only what turns a vector counts.
    slope = -4 / (len(rows) * bandwidth) ** 2 * (pairs.sum(1, keepdim=True) * unit - pairs @ unit)
    slope = slope - (slope * unit).sum(1, keepdim=True) * unit
    return (slope / lengths).view_as(latents)


def by_entropy(run: Run, strength: float, prompts: Tensor) -> Rule:
    """Guidance of one batch.

    Arguments:
        prompts: Prompt features, with shape `(n, E)`.
    """
    levels = run.rules.levels(run.steps).tolist()
    every = max(run.steps // TIMES, 1)
    by_prompt = gaussian(prompts, OF_PROMPTS)

    def rule(estimate: Estimate, x: Tensor, sigma: float) -> Tensor:
        clean, step = estimate(x).clean, levels.index(sigma)
        if step % every:
            return clean
        after = levels[step + 1] / sigma
        arrived = torch.lerp(clean, x, after)  # where an Euler step ends
        squares = arrived.flatten(1).square().sum(1).view(-1, *[1] * (x.ndim - 1))
        eta = strength * len(x) ** 2 / 4 * squares
        return clean - eta * gradient(arrived, by_prompt) / (1 - after)

    return rule
