"""The bandwidth of a radial kernel from the references themselves: the median heuristic."""

import math

import torch
from torch import Tensor

from .kernels import Gram

__all__ = ["median_distance"]

MOST = 2048  # rows whose distances are looked at: the median of two million


def median_distance(gram: Tensor) -> float:
    """The median distance between two different references.

    Falls back to what keeps a kernel usable where references coincide: the mean distance if the median
    is 0, and the norm of a reference, then 1, if there is no distance at all.

    Arguments:
        gram: Inner products of the references, with shape `(N, N)`; of many, some are looked at.

    References:
        Gretton et al., A Kernel Two-Sample Test, JMLR 2012, section 8.
        https://jmlr.org/papers/v13/gretton12a.html
    """
    some = torch.arange(0, len(gram), -(-len(gram) // MOST), device=gram.device)
    if len(some) < len(gram):
        gram = gram[some[:, None], some]
    sq_norms = gram.diagonal()
    d2 = Gram.within(gram).sq_dist()
    i, j = torch.triu_indices(*gram.shape, offset=1, device=gram.device)
    distances = d2[i, j].sqrt()
    if distances.numel():
        for candidate in (distances.median().item(), distances.mean().item()):
            if candidate > 0:
                return candidate
    return math.sqrt(sq_norms.mean().item()) or 1.0
