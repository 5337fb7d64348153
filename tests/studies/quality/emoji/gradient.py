"""Guidance by autograd through the denoiser and the autoencoder: universal and energy guidance.

At each model call the estimates x̂0 are decoded, and the gradient of a loss between the decoded batch
and the set is taken with respect to the noisy x, through the decoder and the denoiser. The estimates
then move against it, as far as `universal.py` says. This is the forward part of universal guidance;
its backward part (more passes through the decoder) and its recurrence (more model calls) are left
out.

References:
    Bansal et al., Universal Guidance for Diffusion Models, 2023. https://arxiv.org/abs/2302.07121
    Yu et al., FreeDoM: Training-Free Energy-Guided Conditional Diffusion Model, ICCV 2023.
        https://arxiv.org/abs/2303.09833
    Székely, Rizzo, Energy statistics: A class of statistics based on distances, Journal of
        Statistical Planning and Inference 2013.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmd_tests.studies.quality.emoji.sampling import Estimate, Rule, Run, precision
from mmd_tests.studies.quality.metrics import median_distance, sq_distance_matrix
from mmd_tests.studies.quality.universal import mmd2_loss, moved
from torch import Tensor, nn

Weights = tuple[Tensor | None, Tensor | None]
"""Of pairs of images (B, B), and of images and the set (B, N); None where all pairs count 1."""

Loss = Callable[[Tensor], Tensor]
"""How far estimates (B, 4, H, W) are from the set, but for what the set alone decides."""


@dataclass(frozen=True)
class GradientConfig:
    """Which loss is lowered, and how fast.

    Attributes:
        loss: One of `LOSSES`.
        strength: ρ, the share of an estimate's uncertainty that a step moves it.
    """

    loss: str
    strength: float


def decoded(vae: nn.Module, latents: Tensor) -> Tensor:
    """Pictures without the limits of -1 and 1, beyond which there would be no gradient."""
    return vae.decoder(latents / vae.scale + vae.shift)


def energy_distance(rows: Tensor, given: Tensor, weights: Weights = (None, None)) -> Tensor:
    """2 E‖x − y‖ − E‖x − x'‖ of rows (B, D) and (N, D): MMD² with the kernel −‖x − y‖."""
    exact = "donot_use_mm_for_euclid_dist"
    pairs = (torch.cdist(rows, other, compute_mode=exact) for other in (rows, given))
    within, across = (d if w is None else d * w for d, w in zip(pairs, weights, strict=True))
    return 2 * across.mean() - within.mean()


def universal_loss(vae: nn.Module, pictures: Tensor, weights: Weights, fast: bool) -> Loss:
    """MMD² of the decoded pictures themselves; three Gaussian kernels about the median distance.

    Arguments:
        pictures: Those of the set in -1 to 1, with shape `(N, 3, H, W)`.
    """
    given = pictures.flatten(1)
    centre, bandwidth = given.mean(0), median_distance(sq_distance_matrix(given))

    def loss(estimates: Tensor) -> Tensor:
        with precision(fast):
            rows = decoded(vae, estimates).to(given.dtype).flatten(1)
        return mmd2_loss(rows - centre, given - centre, bandwidth, weights)

    return loss


def energy_loss(vae: nn.Module, pictures: Tensor, weights: Weights, fast: bool) -> Loss:
    """The energy distance of latents of the decoded pictures: once through the whole autoencoder."""
    with torch.no_grad():
        given = vae.encode(pictures).flatten(1)

    def loss(estimates: Tensor) -> Tensor:
        with precision(fast):
            rows = vae.encode(decoded(vae, estimates)).to(given.dtype).flatten(1)
        return energy_distance(rows, given, weights)

    return loss


LOSSES = {"universal": universal_loss, "energy": energy_loss}


def by_gradient(
    run: Run,
    config: GradientConfig,
    vae: nn.Module,
    pictures: Tensor,
    deviation: float,
    weights: Weights = (None, None),
) -> Rule:
    """Guidance by the gradient of a loss.

    Arguments:
        pictures: Those of the set in -1 to 1, with shape `(N, 3, H, W)`.
        deviation: The standard deviation of latents of the set.
    """
    loss = LOSSES[config.loss](vae, pictures, weights, run.fast)

    def rule(estimate: Estimate, x: Tensor, sigma: float) -> Tensor:
        with torch.enable_grad():
            noisy = x.detach().requires_grad_()
            clean = estimate(noisy).clean
            (gradient,) = torch.autograd.grad(loss(clean), noisy)
        level = run.rules.noise.level(sigma)
        return moved(clean.detach(), gradient, config.strength, level, deviation)

    return rule
