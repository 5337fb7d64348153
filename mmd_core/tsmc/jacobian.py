"""How the denoised estimate follows the noisy sample, as far as samples of the model tell.

For x = α x0 + σ n the estimate x̂0 = E[x0 | x] has the Jacobian α Cov(x0 | x)/σ² (Tweedie's formula), which turns a
gradient at x̂0 into one at x. Along a direction in which Gaussian x0 have the variance v it is the number

    α v / (α² v + σ²)

With v = 1 that is c(σ) of `chain.py`. But images vary along few directions, and by much more than 1: there x̂0 follows x
long before c(σ) says so. Here v is the variance of some samples along the gradient itself, which few samples tell well,
as one number is asked of them; and the direction stays that of the gradient.

References:
    Efron, Tweedie's Formula and Selection Bias, 2011. https://doi.org/10.1198/jasa.2011.tm11181
"""

import torch
from torch import Tensor

from ..kernels.precision import full_precision
from .chain import Transition

__all__ = ["DenoiserJacobian"]


class DenoiserJacobian:
    """J of a model, along gradients.

    Arguments:
        samples: Samples of the model, with shape `(n, *)`, two or more.
    """

    def __init__(self, samples: Tensor):
        rows = samples.to(torch.promote_types(samples.dtype, torch.float32)).flatten(1)
        self.rows = (rows - rows.mean(0)) / max(len(rows) - 1, 1) ** 0.5

    @full_precision()
    def __call__(self, gradient: Tensor, step: Transition) -> Tensor:
        """J g of gradients at x̂0, with shape `(B, *)`, at the noise of a step."""
        g = gradient.to(self.rows).flatten(1)
        squares = g.square().sum(1).clamp_min(torch.finfo(g.dtype).tiny)
        variance = (g @ self.rows.T).square().sum(1) / squares
        factor = step.signal * variance / (step.signal**2 * variance + step.sigma**2)
        return (factor[:, None] * g).reshape(gradient.shape).to(gradient)
