"""Twists: drifts of few parameters that turn the base chain towards the reward.

    q_θ(x' | x) = N(μ(x) + s² u, s²),   u = Σ_k θ_k φ_k

is the base kernel times the first-order expansion of a twist ψ with ∇ log ψ = u. Any features φ that are
functions of the step and of (x, x̂0) are allowed: the weights of the paths correct for them exactly.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .chain import Transition

__all__ = ["MOST", "GradientTwist", "Twist", "drift", "white"]

MOST = 4.0  # the largest s‖φ‖: how many standard deviations of its noise θ = 1 may move a sample at a step


class Twist(Protocol):
    """Features φ.

    Attributes:
        size: p, the number of parameters θ.
    """

    size: int

    def __call__(self, x0: Tensor, step: int) -> tuple[slice, Tensor]:
        """Which parameters act at this step, q of them, and their features, with shape `(B, q, *)`.

        Arguments:
            x0: Denoised estimates, with shape `(B, *)`.
        """


def drift(theta: Tensor, which: slice, features: Tensor) -> Tensor:
    """u = Σ_k θ_k φ_k, with shape `(B, *)`."""
    weights = theta[which].to(features.device, features.dtype)
    return (weights @ features.flatten(2)).reshape(features[:, 0].shape)


Jacobian = Callable[[Tensor, Transition], Tensor]  # (gradient, step) → J · gradient


def white(gradient: Tensor, step: Transition) -> Tensor:
    """J of samples of variance 1 in every direction: c(σ)."""
    return step.slope * gradient


class GradientTwist:
    """φ_k = J_k(σ) ∇f(x̂0): with J the Jacobian of the denoiser, Σ θ = 1 is what the gradient of λ r at the denoised
    estimate suggests by itself.

    Arguments:
        gradient: ∇f as a function of latents `(B, *)`, with f = λ r or an estimate of it.
        steps: The chain.
        blocks: Into how many parts, equal in log σ, the chain is cut; each has θ of its own.
        mask: Where samples may be moved, broadcast against latents; None is everywhere.
        jacobians: Estimates of J; each is a feature, and θ learns how much of which.
    """

    def __init__(
        self,
        gradient: Callable[[Tensor], Tensor],
        steps: Sequence[Transition],
        blocks: int = 1,
        mask: Tensor | None = None,
        jacobians: Sequence[Jacobian] = (white,),
    ):
        self.gradient, self.steps, self.blocks, self.mask = gradient, steps, blocks, mask
        self.jacobians, self.size = jacobians, blocks * len(jacobians)
        levels = [math.log(step.sigma) for step in steps if step.noise > 0]
        self._top, self._length = levels[0], max(levels[0] - levels[-1], 1e-12)

    def block(self, step: int) -> int:
        """The part of the chain that a step belongs to."""
        share = (self._top - math.log(self.steps[step].sigma)) / self._length
        return min(int(share * self.blocks), self.blocks - 1)

    def __call__(self, x0: Tensor, step: int) -> tuple[slice, Tensor]:
        at, first = self.steps[step], self.block(step) * len(self.jacobians)
        gradient, mask = self.gradient(x0), 1.0 if self.mask is None else self.mask
        phi = torch.stack([jacobian(gradient, at) * mask for jacobian in self.jacobians], 1)
        norms = phi.flatten(2).norm(dim=2) * at.noise
        scale = (MOST / norms.clamp_min(MOST)).reshape(*norms.shape, *[1] * (x0.ndim - 1))
        return slice(first, first + len(self.jacobians)), phi * scale
