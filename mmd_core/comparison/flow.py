"""The gradient flow of MMD², integrated in few sub-steps.

With constant kernel values the flow is linear, and a function φ of a B×B matrix gives the exact
solution:

    w' = L·w + F·z      w(h) = w + h φ(hL) (L·w + F·z)      φ(X) = (eˣ − 1) / X = 1 + X/2 + X²/6 + …

Kernel values change slowly, so sub-steps can be long. The first half of a sub-step is the
predictor: this solution with L and F from its start. The corrector then adds half of the change of
L and F, which makes the method second order. The L and F at the end of a sub-step are those at the
start of the next one, so each sub-step costs one evaluation. The flow slows down with time:
sub-steps grow from `FIRST` to `LONGEST`.

References:
    Hochbruck, Ostermann, Exponential Integrators, Acta Numerica 2010.
    https://doi.org/10.1017/S0962492910000048
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .gram_space import Combination
from .rows import never_stopped

__all__ = ["flowed", "substeps"]

# The first sub-step has the length FIRST. Each next one is GROWTH times longer, up to LONGEST. This
# is about as exact as Euler's method with sub-steps of 0.5, and takes a third as many sub-steps
# (tests/studies/benchmarks/substeps.py). The pull of singular kernels has no bound, so that long
# sub-steps overshoot. For them FIRST is halved and the longest sub-step is SINGULAR, which takes
# three quarters as many sub-steps as Euler's method.
FIRST, GROWTH, LONGEST = 0.4, 1.5, 2.0
SINGULAR = 0.7
# Samples that slow down as they come to rest must not run past it: first, growth and longest.
RESTING = 0.05, 1.2, 0.3
STIFF = 32.0  # coefficients of a sample, in sum, above which the series of φ does not hold
# Pulls of kernels of products grow with the samples. Above this sum long sub-steps would overshoot
# by more each time. The coefficients of a short sub-step sum to 1 / SHORT at most.
STEEP, SHORT = 8.0, 2.0
BOUND = 8.0  # coefficients of a sample, in sum, where these are known to be small
FINITE = 24.0
TERMS = 4  # terms of the series of φ: enough for matrices of norms up to 1/2


def substeps(reach: float, singular: bool = False, resting: bool = False) -> list[float]:
    """The lengths of the sub-steps, which sum to `reach`.

    Arguments:
        reach: The time of the flow.
        singular: As in `RadialKernel`.
        resting: Whether samples come to rest on the way.
    """
    first, longest = (FIRST / 2, SINGULAR) if singular else (FIRST, LONGEST)
    first, growth, longest = RESTING if resting else (first, GROWTH, longest)
    lengths = []
    while sum(lengths) < reach * (1 - 1e-9):
        lengths.append(min(first * growth ** len(lengths), longest))
    return [length * reach / sum(lengths) for length in lengths]


def flowed(
    w: Combination,
    velocity: Callable[[Combination], Tensor],
    lengths: list[float],
    singular: bool = False,
    steep: bool = False,
    bounded: bool = False,
    check: Callable[[], None] = never_stopped,
) -> Combination:
    """The samples after the flow w' = L·w + F·z.

    Arguments:
        w: The samples at the start.
        velocity: A function of the samples that returns `[L | F]`, with shape `(B, B + M)`.
        lengths: The lengths of the sub-steps, in units of flow time. A single sub-step has no
            corrector.
        singular: As in `RadialKernel`.
        steep: Whether coefficients grow with the samples. If they become large, all sub-steps from
            then on are short.
        bounded: Whether the coefficients of a sample are known to sum to `BOUND` at most.
        check: As in `Rows`.
    """
    begun = velocity(w)
    share = 0.25 if singular else 0.5  # below 0.5 the corrector is less accurate, but more stable
    one = torch.eye(len(begun), dtype=begun.dtype, device=begun.device)
    limit = STEEP if steep else STIFF
    # Beyond this sum of a sample's coefficients K, rounding errors are as large as distances.
    exact = 0.25 / math.sqrt(torch.finfo(begun.dtype).eps)
    # A sub-step multiplies by less than exp(FINITE): then its end is early enough to look.
    late = w.lasting and (BOUND if bounded else limit) * max(lengths, default=0.0) < FINITE
    if not bounded:
        total = _sums(begun)
        stiff = (total > limit).any() if steep else total > limit
    for h in lengths:
        own = begun[:, : len(begun)]
        if not bounded:
            # A sample upon a reference, or far outside, can have coefficients without bound. It
            # goes straight on instead, and no farther than to where they point.
            decay = (SHORT * total.amax() if steep else total) * -h
            begun = torch.where(stiff, begun * (decay.expm1() / decay), begun)
            own = begun[:, : len(begun)].masked_fill(stiff, 0)
        weights = phi(own, h, one, check)
        check()
        if len(lengths) == 1:
            return w.moved(begun, exact, weights, h)
        ahead = w.moved(begun, math.inf if late else exact, weights, h)
        ended = velocity(ahead)
        check()
        if not bounded:
            total = _sums(ended)
            # Once coefficients are steep, all sub-steps from then on are short.
            after = stiff | (total > limit).any() if steep else total > limit
            weights = weights.masked_fill(stiff | after, 0)
            stiff = after
        w = ahead.moved(ended - begun, exact, weights, h * share, w if late else ahead)
        begun = ended
    return w


def _sums(by: Tensor) -> Tensor:
    """The sum of the absolute coefficients of each sample, with shape `(B, 1)`."""
    return torch.linalg.vector_norm(by, 1, dim=1, keepdim=True)


def phi(matrix: Tensor, h: float, one: Tensor, check: Callable[[], None] = never_stopped) -> Tensor:
    """φ(h · matrix), by scaling and doubling, with shape `(B, B)`.

    Arguments:
        matrix: With shape `(B, B)`; its norm is at most about 4.
        h: The length of the sub-step.
        one: The identity matrix, with shape `(B, B)`.
        check: As in `flowed`.
    """
    doublings = max(0, math.ceil(math.log2(8 * h)))
    h = h / 2**doublings
    series = torch.add(one, matrix, alpha=h / (TERMS + 1))
    for k in range(TERMS, 1, -1):
        check()
        series = torch.addmm(one, matrix, series, alpha=h / k)
    for k in range(doublings):  # φ(2X) = φ(X) + φ(X) X φ(X) / 2
        check()
        series = torch.addmm(series, matrix @ series, series, alpha=h * 2**k / 2)
    return series
