"""A stand-in for a reward of which only scores are known: kernel ridge regression."""

import torch
from torch import Tensor

from ..kernels.bandwidth import median_distance
from ..kernels.kernels import Gram, RadialKernel
from .expansion import KernelExpansion

__all__ = ["RIDGE", "fitted"]

RIDGE = 0.1  # of the kernel's value of a sample with itself


def fitted(z: Tensor, scores: Tensor, ridge: float = RIDGE) -> KernelExpansion:
    """r̂, which follows the scores of samples: their mean plus a combination of RBF kernels at the median distance.

    Arguments:
        z: Samples, with shape `(n, *)`.
        scores: With shape `(n,)`; of those that are not finite the samples are left out.
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
