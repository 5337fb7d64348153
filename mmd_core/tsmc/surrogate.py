"""A differentiable surrogate of a reward that gives only scores: kernel ridge regression."""

import torch
from torch import Tensor

from ..kernels.bandwidth import median_distance
from ..kernels.kernels import Gram, RadialKernel
from .expansion import KernelExpansion

__all__ = ["RIDGE", "fitted"]

RIDGE = 0.1  # regularization; k(x, x) is 1


def fitted(z: Tensor, scores: Tensor, ridge: float = RIDGE) -> KernelExpansion:
    """r̂, fitted to the scores: their mean plus a combination of RBF kernels.

    The bandwidth is the median distance of the samples.

    Arguments:
        z: Samples, with shape `(n, *)`.
        scores: The scores, with shape `(n,)`; samples whose score is not finite are left out.
        ridge: The number that is added to the diagonal of the kernel matrix.
    """
    usable = torch.isfinite(scores).to(z.device)
    rows, scores = z[usable].flatten(1).float(), scores.to(z.device)[usable].double()
    centered = rows - rows.mean(0)
    gram = Gram.within(centered @ centered.T)
    kernel = RadialKernel("rbf", (median_distance(gram.dot),))
    values = kernel.values(gram).double().cpu()
    mean = scores.mean().item()
    system = values + ridge * torch.eye(len(values), dtype=torch.float64)
    coefficients = torch.linalg.solve(system, scores.cpu() - mean).to(rows)
    return KernelExpansion(kernel, rows, coefficients, mean)
