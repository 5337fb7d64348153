"""The base chain: the Gaussian transition of each step of an ancestral Euler sampler.

    x' = μ(x) + s ξ,  ξ ~ N(0, 1),  μ(x) = a x + b x̂0

where a, b and s depend on the step only. The chain is defined by the sampler and not by the
differential equation that it discretizes. So the importance weights of TRI-TSMC are exact for the
samples that this sampler draws.

    eps, v, EDM     s² = min(σ'², η² σ'² (σ² − σ'²)/σ²)
                    σ_d² = σ'² − s²
                    μ = x̂0 + (σ_d/σ)(x − x̂0)
    flow matching   σ_d = σ' (1 + (σ'/σ − 1) η)
                    s² = σ'² − (σ_d (1 − σ')/(1 − σ_d))²
                    μ = (1 − σ')/(1 − σ_d) · (x̂0 + (σ_d/σ)(x − x̂0))

as in `euler_ancestral` of ComfyUI (k-diffusion) and in its version for flow matching. If the
model's noise has another standard deviation than 1, s is multiplied by it. In the first case, η = 1
gives the posterior of DDPM. The last step, to σ' = 0, returns x̂0 and draws no noise.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from ..comparison.noise import NoiseModel

__all__ = ["Transition", "transitions"]


class Transition(NamedTuple):
    """One step, from `sigma` to `sigma_next`.

    Attributes:
        sigma: σ, the noise level before the step.
        sigma_next: σ', the noise level after the step.
        of_x: a, the coefficient of x in the mean.
        of_x0: b, the coefficient of the denoised estimate x̂0 in the mean.
        noise: s, the standard deviation of the noise that is drawn; 0 on the last step.
        signal: α, the coefficient of x0 in x = α x0 + σ n.
        slope: c(σ) = ∂x̂0/∂x for clean samples of the variance that the model assumes (1 for most).
            It converts a gradient at x̂0 into a gradient at x.
        certainty: κ(σ), the fraction of that variance which x determines, in [0, 1].
        deviation: The standard deviation of the noise in x before the step.
    """

    sigma: float
    sigma_next: float
    of_x: float
    of_x0: float
    noise: float
    signal: float
    slope: float
    certainty: float
    deviation: float

    def mean(self, x: Tensor, x0: Tensor) -> Tensor:
        """μ, with the shape of `x`."""
        return self.of_x * x + self.of_x0 * x0


def transitions(
    sigmas: Iterable[float],
    noise: NoiseModel = NoiseModel(),  # noqa: B008  it cannot be changed
    eta: float = 1.0,
) -> tuple[Transition, ...]:
    """The transitions of a decreasing schedule of noise levels.

    Arguments:
        sigmas: σ_0 > … > σ_T = 0.
        noise: The model's noise.
        eta: η in ]0, 1], the amount of noise that each step replaces by new noise.

    Raises:
        ValueError: The schedule has fewer than two steps or does not decrease to 0, or η is not in
            ]0, 1].
    """
    levels = [float(sigma) for sigma in sigmas]
    if len(levels) < 3 or levels[-1] != 0 or any(not a > b for a, b in pairwise(levels)):
        raise ValueError(
            "sigmas must fall from step to step and end at 0: connect a whole schedule of "
            "BasicScheduler with at least 2 steps"
        )
    if not 0 < eta <= 1:
        raise ValueError(
            f"eta must be above 0 and at most 1, not {eta}: set it to 1. Steering needs the noise "
            "that each step draws"
        )
    return tuple(_transition(a, b, noise, eta) for a, b in pairwise(levels))


def _transition(sigma: float, after: float, model: NoiseModel, eta: float) -> Transition:
    signal, deviation, variance = model.signal(sigma), model.deviation(sigma), model.sigma_data**2
    total = variance * signal**2 + deviation**2
    of_state = signal, variance * signal / total, variance * signal**2 / total, deviation
    if after == 0:
        return Transition(sigma, after, 0.0, 1.0, 0.0, *of_state)
    if model.flow_matching:
        down = after * (1 + (after / sigma - 1) * eta)
        shrink = (1 - after) / (1 - down)
        noise = math.sqrt(max(after**2 - (down * shrink) ** 2, 0.0))
    else:
        noise = min(after, eta * math.sqrt(after**2 * (sigma**2 - after**2) / sigma**2))
        down, shrink = math.sqrt(max(after**2 - noise**2, 0.0)), 1.0
    keep = down / sigma
    return Transition(
        sigma, after, shrink * keep, shrink * (1 - keep), model.scale * noise, *of_state
    )
