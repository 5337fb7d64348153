"""The median heuristic: the bandwidth of a kernel is the median distance between references."""

import math

import torch
from torch import Tensor

from .kernels import Gram

__all__ = ["median_distance"]

MAX_MEDIAN_ROWS = 2048  # most references that enter the median: about two million pairs
ROUNDING = 16  # rounding errors of squared distances, in units of the last place


def median_distance(gram: Tensor, offset: float = 0.0) -> float:
    """The median distance between two different references.

    If the median is 0, the result is the mean distance. If all distances are 0, or there is only
    one reference, the result is the root mean square norm of the references. If that is 0 too, the
    result is 1. Rounding errors count as 0. The result is therefore always a valid bandwidth, in
    units of the rows.

    Arguments:
        gram: Inner products of the references, with shape `(N, N)`. Above 2048 references, evenly
            spaced ones are used.
        offset: The norm of what was subtracted from all references before.

    References:
        Gretton et al., A Kernel Two-Sample Test, JMLR 2012, section 8.
        https://jmlr.org/papers/v13/gretton12a.html
    """
    some = torch.arange(0, len(gram), -(-len(gram) // MAX_MEDIAN_ROWS), device=gram.device)
    if len(some) < len(gram):
        gram = gram[some[:, None], some]
    sq_norms = gram.diagonal()
    d2 = Gram.within(gram).sq_dist()
    i, j = torch.triu_indices(*gram.shape, offset=1, device=gram.device)
    distances = d2[i, j].sqrt()
    square, eps = sq_norms.mean().item(), torch.finfo(gram.dtype).eps
    rounding = math.sqrt(ROUNDING * eps * (square + eps * offset**2))
    if distances.numel():
        for candidate in (distances.median().item(), distances.mean().item()):
            if candidate > rounding:
                return candidate
    return math.sqrt(square + offset**2) or 1.0
