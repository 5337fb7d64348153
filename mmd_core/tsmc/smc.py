"""Sequential Monte Carlo with the twisted proposal: particles are resampled during sampling.

    log w += [V_{i+1} − V_i] + log p/q,   log p/q = −s u·e − ½ s² ‖u‖²

where e is the noise that is drawn. Z_hat is unbiased for any potentials V with V_0 = 0 and
V_T = λ r. This project uses V_i = κ(σ_i) λ r(x̂0). Without κ, V would treat x̂0 as certain while
noise still hides part of x0. With a large λ, the wrong particles would then be duplicated.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .paths import Denoise, Noise
from .transition import Transition
from .twist import Twist, drift
from .weights import effective, log_mean_exp, systematic

__all__ = ["ParticleSystem", "Potential", "smc"]

Potential = Callable[[Tensor, int], Tensor]  # (x̂0, step) → V, with shape `(B,)`
THRESHOLD = 0.5  # resample if the effective sample size is below this fraction of the particles


@dataclass(frozen=True, eq=False)
class ParticleSystem:
    """The particles after the last step.

    Attributes:
        z: Samples, with shape `(N, *)`.
        log_weights: log w since the last resampling, with shape `(N,)`, float64 on the CPU.
        log_z: log Z_hat, complete after `rewarded`; Z_hat is unbiased.
        ancestors: The index of the initial sample that each particle descends from, with shape
            `(N,)`.
        resampled: The number of resampling steps.
    """

    z: Tensor
    log_weights: Tensor
    log_z: float
    ancestors: Tensor
    resampled: int

    def rewarded(self, tilt: Tensor) -> "ParticleSystem":
        """With the last potential V_T = λ r of the samples, with shape `(N,)`."""
        log_weights = _added(self.log_weights, _usable(tilt))
        log_z = self.log_z + log_mean_exp(log_weights)
        return replace(self, log_weights=log_weights, log_z=log_z)


def smc(
    denoise: Denoise,
    x: Tensor,
    steps: Sequence[Transition],
    noise: Noise,
    uniform: Callable[[int], float],
    potential: Potential | None = None,
    twist: Twist | None = None,
    theta: Tensor | None = None,
) -> ParticleSystem:
    """Moves all particles together, step by step, with systematic resampling.

    The caller then scores the samples and passes the scores to `ParticleSystem.rewarded`.

    Arguments:
        denoise, x, steps, noise, twist, theta: As for `propose`.
        uniform: Maps a step to a random number in [0, 1[.
        potential: Maps `(x̂0, step)` to V, with shape `(N,)`; None means V = 0 at all steps.

    References:
        Chopin, Papaspiliopoulos, An Introduction to Sequential Monte Carlo, 2020, chapter 10.
        https://doi.org/10.1007/978-3-030-47845-2
    """
    n, log_z, resampled = len(x), 0.0, 0
    log_w = torch.zeros(n, dtype=torch.float64)
    last = torch.zeros(n, dtype=torch.float64)  # V at the step before
    ancestors = torch.arange(n)
    for i, step in enumerate(steps):
        x0 = denoise(x, i)
        if i and potential is not None:
            new = _usable(potential(x0, i))
            log_w, last = _added(log_w, new - last), new
        if 0 < effective(log_w) < THRESHOLD * n:
            log_z += log_mean_exp(log_w)
            chosen = systematic(torch.softmax(log_w, 0), uniform(i))
            x, x0 = x[chosen.to(x.device)], x0[chosen.to(x.device)]
            last, ancestors = last[chosen], ancestors[chosen]
            log_w, resampled = torch.zeros_like(log_w), resampled + 1
        mean = step.mean(x, x0)
        if step.noise == 0:
            x = mean
            continue
        e = noise(i)
        if twist is not None:
            which, features = twist(x0, i)
            u = step.noise * drift(theta, which, features)
            flat = u.flatten(1)
            ratio = -(flat * e.flatten(1)).sum(1) - 0.5 * flat.square().sum(1)
            log_w, e = _added(log_w, _usable(ratio)), e + u
        x = mean + step.noise * e
    return ParticleSystem(x, _added(log_w, -last), log_z, ancestors, resampled)


def _added(log_weights: Tensor, more: Tensor) -> Tensor:
    """The sum of log weights; −∞ (no weight) stays −∞."""
    return torch.where(log_weights == -math.inf, log_weights, log_weights + more)


def _usable(values: Tensor) -> Tensor:
    """The values in float64 on the CPU; values that are not finite become −∞ (no weight)."""
    values = values.detach().to("cpu").double()
    return torch.where(torch.isfinite(values), values, -math.inf)
