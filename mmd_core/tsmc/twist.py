"""Twists: drifts with few parameters that steer the base chain towards the reward.

    q_θ(x' | x) = N(μ(x) + s² u, s²),   u = Σ_k θ_k φ_k

q_θ is the base kernel times a twist function ψ, with log ψ expanded to first order: ∇ log ψ = u.
The features φ may be any functions of the step and of (x, x̂0): the importance weights stay exact.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .transition import Transition

__all__ = ["MAX_SHIFT", "Gradient", "GradientTwist", "Jacobian", "Twist", "drift", "white"]

MAX_SHIFT = 4.0  # maximum of s‖φ‖, the shift of a step in its standard deviations s if θ = 1


class Twist(Protocol):
    """The features φ of a drift.

    Attributes:
        size: p, the number of parameters θ.
    """

    size: int

    def __call__(self, x0: Tensor, step: int) -> tuple[slice, Tensor]:
        """The q parameters that are active at a step, and their features.

        Arguments:
            x0: Denoised estimates, with shape `(B, *)`.

        Returns:
            The slice of the active parameters, and φ with shape `(B, q, *)`.
        """


def drift(theta: Tensor, which: slice, features: Tensor) -> Tensor:
    """u = Σ_k θ_k φ_k, with shape `(B, *)`.

    Arguments:
        which, features: What a `Twist` returns.
    """
    weights = theta[which].to(features.device, features.dtype)
    return (weights @ features.flatten(2)).reshape(features[:, 0].shape)


Gradient = Callable[[Tensor], Tensor]  # latents `(B, *)` → ∇f, with the same shape
Jacobian = Callable[[Tensor, Transition], Tensor]  # (gradient, step) → J · gradient


def white(gradient: Tensor, step: Transition) -> Tensor:
    """J g for clean samples with variance 1 in every direction: c(σ) g."""
    return step.slope * gradient


class GradientTwist:
    """φ_k = J_k(σ) ∇f(x̂0), where J_k is an estimate of the Jacobian ∂x̂0/∂x.

    If Σ θ = 1, the drift is the gradient of f at the denoised estimate. Features are shortened to
    s‖φ‖ ≤ `MAX_SHIFT`.

    Arguments:
        gradient: ∇f as a function of latents `(B, *)`, with f = λ r or an estimate of it.
        steps: The transitions of the chain.
        blocks: The number of blocks that the chain is divided into, of equal length in log σ. Each
            block has its own θ.
        mask: The factor of φ, broadcast against latents: 0 where samples must not change. None is 1
            everywhere.
        jacobians: The estimates J_k. Each gives one feature, and θ learns their weights.
    """

    def __init__(
        self,
        gradient: Gradient,
        steps: Sequence[Transition],
        blocks: int = 1,
        mask: Tensor | None = None,
        jacobians: Sequence[Jacobian] = (white,),
    ) -> None:
        self.gradient, self.steps, self.blocks, self.mask = gradient, steps, blocks, mask
        self.jacobians, self.size = jacobians, blocks * len(jacobians)
        levels = [math.log(step.sigma) for step in steps if step.noise > 0]
        self._top, self._length = levels[0], max(levels[0] - levels[-1], 1e-12)

    def block(self, step: int) -> int:
        """The index of the block that a step belongs to."""
        fraction = (self._top - math.log(self.steps[step].sigma)) / self._length
        return min(int(fraction * self.blocks), self.blocks - 1)

    def __call__(self, x0: Tensor, step: int) -> tuple[slice, Tensor]:
        at, first = self.steps[step], self.block(step) * len(self.jacobians)
        gradient, mask = self.gradient(x0), 1.0 if self.mask is None else self.mask
        phi = torch.stack([jacobian(gradient, at) * mask for jacobian in self.jacobians], 1)
        norms = phi.flatten(2).norm(dim=2) * at.noise
        scale = (MAX_SHIFT / norms.clamp_min(MAX_SHIFT)).reshape(*norms.shape, *[1] * (x0.ndim - 1))
        return slice(first, first + len(self.jacobians)), phi * scale
