"""The gradient flow of MMD² in few sub-steps.

With kernel values frozen the flow is linear, and is solved exactly by a matrix function of B×B numbers:

    w' = L·w + F·z      w(h) = w + h φ(hL) (L·w + F·z)      φ(X) = (eˣ − 1) / X = 1 + X/2 + X²/6 + …

Kernel values change slowly, so that sub-steps may be long. Each goes there (the predictor), and is corrected by half
of what L and F have changed on the way, which makes it exact to second order; the values found there are the next
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

# About as exact as Euler's method in sub-steps of 0.5, with a third as many (tests/studies/benchmarks/substeps.py); three
# quarters for kernels whose values change without bound, where longer ones overshoot.
FIRST, GROWTH, LONGEST = 0.4, 1.5, 2.0
SINGULAR = 0.7  # the longest for these
TERMS = 4  # of the series of φ, for matrices of norms up to 1/2


def substeps(reach: float, singular: bool = False) -> list[float]:
    """The lengths of the sub-steps, which sum to `reach`; `singular` as in `kernels.py`."""
    first, longest = (FIRST / 2, SINGULAR) if singular else (FIRST, LONGEST)
    lengths = []
    while sum(lengths) < reach * (1 - 1e-9):
        lengths.append(min(first * GROWTH ** len(lengths), longest))
    return [length * reach / sum(lengths) for length in lengths]


def flowed(
    w: Combination,
    velocity: Callable[[Combination], Tensor],
    lengths: list[float],
    singular: bool = False,
) -> Combination:
    """Where w' = velocity leads in time `lengths`.

    Arguments:
        velocity: `[L | F]` of w' = L·w + F·z, with shape `(B, B + M)`.
        lengths: Of the sub-steps; a single one is not corrected.
        singular: Whether the values of the kernel change without bound, see `kernels.py`.
    """
    begun = velocity(w)
    share = 0.25 if singular else 0.5  # less is not as exact, but damps
    one = torch.eye(len(begun), dtype=begun.dtype, device=begun.device)
    for h in lengths:
        weights = phi(begun[:, : len(begun)], h, one)
        w = w.moved(torch.addmm(begun, weights, begun, beta=0, alpha=h))
        if len(lengths) > 1:
            ended = velocity(w)
            w = w.moved(torch.addmm(begun, weights, ended - begun, beta=0, alpha=h * share))
            begun = ended
    return w


def phi(matrix: Tensor, h: float, one: Tensor) -> Tensor:
    """φ(h · matrix), for a matrix whose norm is at most about 4, with shape `(B, B)`; `one` is the unit matrix."""
    doublings = max(0, math.ceil(math.log2(8 * h)))
    h = h / 2**doublings
    series = torch.add(one, matrix, alpha=h / (TERMS + 1))
    for k in range(TERMS, 1, -1):
        series = torch.addmm(one, matrix, series, alpha=h / k)
    for k in range(doublings):  # φ(2X) = φ(X) + φ(X) X φ(X) / 2
        series = torch.addmm(series, matrix @ series, series, alpha=h * 2**k / 2)
    return series
