"""The gradient flow of MMD² in few sub-steps.

With kernel values frozen the flow is linear, and is solved exactly by a matrix function of B×B numbers:

    w' = L·w + F·z      w(h) = w + h φ(hL) (L·w + F·z)      φ(X) = (eˣ − 1) / X = 1 + X/2 + X²/6 + …

Kernel values change slowly, so that sub-steps may be long. Each is taken twice, with the values of its start (the
predictor) and with the mean of these and of those at the predicted end (the corrector); the latter are the next
sub-step's first. The flow slows down on its way: sub-steps grow from `FIRST` to `LONGEST`.

References:
    Hochbruck, Ostermann, Exponential Integrators, Acta Numerica 2010. https://doi.org/10.1017/S0962492910000048
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .gram_space import Combination

__all__ = ["flowed", "substeps"]

# As exact as Euler's method in sub-steps of 0.5, with a third as many (tests/benchmarks/substeps.py).
FIRST, GROWTH, LONGEST = 0.4, 1.5, 2.0
TERMS = 4  # of the series of φ, for matrices of norms up to 1/2


def substeps(reach: float) -> list[float]:
    """The lengths of the sub-steps, which sum to `reach`."""
    lengths = []
    while sum(lengths) < reach * (1 - 1e-9):
        lengths.append(min(FIRST * GROWTH ** len(lengths), LONGEST))
    return [length * reach / sum(lengths) for length in lengths]


def flowed(
    w: Combination, velocity: Callable[[Combination], Tensor], lengths: list[float]
) -> Combination:
    """Where w' = velocity leads in time `lengths`.

    Arguments:
        velocity: `[L | F]` of w' = L·w + F·z, with shape `(B, B + M)`.
    """
    begun = velocity(w)
    for h in lengths:
        predicted = w.moved(_displacement(begun, h))
        if len(lengths) == 1:  # too short for values to change
            return predicted
        ended = velocity(predicted)
        w = w.moved(_displacement((begun + ended).div_(2), h))
        begun = ended
    return w


def _displacement(velocity: Tensor, h: float) -> Tensor:
    """h φ(hL) · `[L | F]`."""
    linear = velocity[:, : len(velocity)]
    return h * (phi(linear, h) @ velocity)


def phi(matrix: Tensor, h: float) -> Tensor:
    """φ(h · matrix), for a matrix whose norm is at most about 4, with shape `(B, B)`."""
    halvings = max(0, math.ceil(math.log2(8 * h)))
    x = matrix * (h / 2**halvings)
    one = torch.eye(len(x), dtype=x.dtype, device=x.device)
    series = torch.add(one, x, alpha=1 / (TERMS + 1))
    for k in range(TERMS, 1, -1):
        series = torch.addmm(one, x, series, alpha=1 / k)
    for _ in range(halvings):  # φ(2X) = φ(X) + φ(X) X φ(X) / 2
        series = torch.addmm(series, x @ series, series, alpha=0.5)
        x = 2 * x
    return series
