"""The median heuristic: the bandwidth of a kernel is the median distance between references."""

import math

import torch
from torch import Tensor

from .kernels import Gram

__all__ = ["distance_numbers", "from_numbers", "median_distance"]

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
    numbers = distance_numbers(gram).tolist()
    return from_numbers(*numbers, offset, torch.finfo(gram.dtype).eps)


def distance_numbers(gram: Tensor) -> Tensor:
    """What `median_distance` has to know of the references, as one tensor of 3 numbers.

    They are the mean ‖y‖² of the references, and the median and the mean distance, 0 where there is
    only one reference.

    Arguments:
        gram: As in `median_distance`.
    """
    some = torch.arange(0, len(gram), -(-len(gram) // MAX_MEDIAN_ROWS), device=gram.device)
    if len(some) < len(gram):
        gram = gram[some[:, None], some]
    sq_norms = gram.diagonal()
    d2 = Gram.within(gram).sq_dist()
    i, j = torch.triu_indices(*gram.shape, offset=1, device=gram.device)
    distances = d2[i, j].sqrt()
    square = sq_norms.mean()
    if not distances.numel():
        return torch.stack([square, square.new_zeros(()), square.new_zeros(())])
    return torch.stack([square, distances.median(), distances.mean()])


def from_numbers(square: float, median: float, mean: float, offset: float, eps: float) -> float:
    """`median_distance` from its numbers; `eps` is the rounding error of the inner products."""
    rounding = math.sqrt(ROUNDING * eps * (square + eps * offset**2))
    for candidate in (median, mean):
        if candidate > rounding:
            return candidate
    return math.sqrt(square + offset**2) or 1.0
