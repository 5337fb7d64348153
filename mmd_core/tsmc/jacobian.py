"""The Jacobian ∂x̂0/∂x of the denoiser, estimated from samples of the model.

For x = α x0 + σ n, the estimate x̂0 = E[x0 | x] has the Jacobian α Cov(x0 | x)/σ² (Tweedie's
formula; σ is here the standard deviation of the noise in x). It converts a gradient at x̂0 into a
gradient at x. If x0 is Gaussian with variance v along a direction, the Jacobian along it is

    α v / (α² v + σ²)

With v = 1 this is c(σ) of `transition.py`. But images vary along few directions, with variances
much larger than 1. Along these, x̂0 depends on x even at high noise, where c(σ) is small. So this
module takes the variance of samples along the gradient for v. It is a single number, so few samples
are enough. The direction of the gradient does not change.

References:
    Efron, Tweedie's Formula and Selection Bias, 2011. https://doi.org/10.1198/jasa.2011.tm11181
"""

import torch
from torch import Tensor

from ..kernels.precision import full_precision
from .transition import Transition

__all__ = ["DenoiserJacobian"]


class DenoiserJacobian:
    """J of a model, approximated by one factor along each gradient.

    Arguments:
        samples: Samples of the model in its latent space, with shape `(n, *)`, two or more.
    """

    def __init__(self, samples: Tensor) -> None:
        rows = samples.to(torch.promote_types(samples.dtype, torch.float32)).flatten(1)
        self.rows = (rows - rows.mean(0)) / max(len(rows) - 1, 1) ** 0.5

    @full_precision()
    def __call__(self, gradient: Tensor, step: Transition) -> Tensor:
        """J g for gradients g at x̂0, with shape `(B, *)`, at the noise level of a step."""
        g = gradient.to(self.rows).flatten(1)
        squares = g.square().sum(1).clamp_min(torch.finfo(g.dtype).tiny)
        variance = (g @ self.rows.T).square().sum(1) / squares
        factor = step.signal * variance / (step.signal**2 * variance + step.deviation**2)
        return (factor[:, None] * g).reshape(gradient.shape).to(gradient)
