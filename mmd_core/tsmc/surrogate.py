"""A differentiable surrogate of a reward that gives only scores: kernel ridge regression."""

import torch
from torch import Tensor

from ..kernels.bandwidth import median_distance
from ..kernels.kernels import Gram, RadialKernel
from ..kernels.precision import full_precision
from .expansion import KernelExpansion

__all__ = ["RIDGE", "fitted"]

RIDGE = 0.1  # regularization; k(x, x) is 1


@full_precision()
def fitted(z: Tensor, scores: Tensor, ridge: float = RIDGE) -> KernelExpansion:
    """r̂, fitted to the scores: their mean plus a combination of RBF kernels.

    The bandwidth is the median distance of the samples.

    Arguments:
        z: Samples, with shape `(n, *)`.
        scores: The scores, with shape `(n,)`; samples whose score is not finite are left out.
        ridge: The number that is added to the diagonal of the kernel matrix.
    """
    scores = scores.cpu().double()  # on the CPU, because a GPU may lack float64
    usable = torch.isfinite(scores)
    rows, scores = z[usable.to(z.device)].flatten(1).float(), scores[usable]
    centre = rows.mean(0)
    gram = Gram.within((rows - centre) @ (rows - centre).T)
    kernel = RadialKernel("rbf", (median_distance(gram.dot, centre.norm().item()),))
    values = kernel.values(gram).cpu().double()
    mean = scores.mean().item()
    system = values + ridge * torch.eye(len(values), dtype=torch.float64)
    coefficients = torch.linalg.solve(system, scores - mean).to(rows)
    return KernelExpansion(kernel, rows, coefficients, mean)
