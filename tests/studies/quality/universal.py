"""Guidance by autograd through the denoiser, the usual way to guide without training.

At each model call the gradient of MMD² between the batch's x̂0(x) and the references is taken with respect
to the *noisy* x. The estimate then moves against it, each image by the same share ρ of the
uncertainty that noise σ leaves about an image of standard deviation s, √D·σ·s/√(σ² + s²):

    x̂0 ← x̂0 − ρ · √D · σ s / √(σ² + s²) · g / ‖g‖,        g = ∂MMD²(x̂0(x), references) / ∂x

Normalised, because the raw gradient changes by orders of magnitude along the way (as in the published
code of MMD guidance itself, and in spherical Gaussian guidance, https://arxiv.org/abs/2402.03201).

References:
    Bansal et al., Universal Guidance for Diffusion Models, 2023. https://arxiv.org/abs/2302.07121
    Ye et al., TFG: Unified Training-Free Guidance for Diffusion Models, NeurIPS 2024.
        https://arxiv.org/abs/2409.15761 (this is its *variance guidance*, without recurrence)
"""

import math

import torch
from mmd_tests.studies.quality.metrics import median_distance, rbf_matrix, sq_distance_matrix
from torch import Tensor


def kernel_values(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """The mean of Gaussian kernels of ½, 1 and 2 bandwidths between rows `(n, D)` and `(m, D)`."""
    d2 = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return rbf_matrix(d2.clamp_min(0), bandwidth)


def mmd2_loss(x: Tensor, y: Tensor, bandwidth: float, weights=(None, None)) -> Tensor:
    """The biased MMD² of rows `(n, D)` and `(m, D)`, but for the part that x does not change.

    Arguments:
        weights: Prompt weights of pairs, with shapes `(n, n)` and `(n, m)`, or None for 1.
    """
    within, across = kernel_values(x, x, bandwidth), kernel_values(x, y, bandwidth)
    within, across = (
        k if w is None else k * w for k, w in zip((within, across), weights, strict=True)
    )
    return within.mean() - 2 * across.mean()


def moved(
    estimate: Tensor, gradient: Tensor, strength: float, level: float, deviation: float
) -> Tensor:
    """The estimate after its step against the gradient, as above.

    Arguments:
        estimate, gradient: x̂0, and the gradient with respect to x; with shape `(B, *shape)`.
        strength: ρ.
        level: σ, the noise per unit of signal; may be infinite.
        deviation: s.
    """
    scale = math.sqrt(estimate[0].numel()) * deviation / math.hypot(1, deviation / level)
    norms = gradient.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, *[1] * (gradient.ndim - 1))
    return estimate - strength * scale * gradient / norms


def universally_guided(model, references: Tensor, strength: float, weights=(None, None)):
    """A clone of `model` that is guided at every call but the last one of a run, at the least noise.

    Arguments:
        references: In the space of the model, with shape `(N, *shape)`.
        strength: ρ.
    """
    from comfy.patcher_extension import WrappersMP

    rows = references.flatten(1)
    centre, deviation = rows.mean(0), rows.std().item()
    rows = rows - centre
    bandwidth = median_distance(sq_distance_matrix(rows))

    def predict(executor, x, timestep, model_options={}, seed=None):  # noqa: B006 (ComfyUI's signature)
        with torch.inference_mode(False), torch.enable_grad():
            noisy = x.clone().requires_grad_()
            x0 = executor(noisy, timestep, model_options, seed)
            loss = mmd2_loss(x0.flatten(1) - centre, rows, bandwidth, weights)
            (gradient,) = torch.autograd.grad(loss, noisy)
        sigma = float(timestep.flatten()[0])
        return moved(x0.detach(), gradient, strength, sigma, deviation)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "quality_universal", predict)
    return clone
