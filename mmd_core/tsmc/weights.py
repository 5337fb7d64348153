"""Importance weights: their mean, their effective number, resampling by them. All in float64."""

import math

import torch
from torch import Tensor

__all__ = ["effective", "log_mean_exp", "systematic"]


def log_mean_exp(log_weights: Tensor) -> float:
    """log of the mean of e^{log_weights}: of −∞ throughout, −∞."""
    return (torch.logsumexp(log_weights, 0) - math.log(len(log_weights))).item()


def effective(log_weights: Tensor) -> float:
    """The effective sample size (Σ w)² / Σ w², in [1, n]; 0 if no weight is left."""
    if not torch.isfinite(log_weights).any():
        return 0.0
    weights = torch.softmax(log_weights, 0)
    return (1 / weights.square().sum()).item()


def systematic(weights: Tensor, u: float, count: int | None = None) -> Tensor:
    """Systematic resampling: of which of n samples the `count` (default n) new ones are copies.

    The number of copies of a sample differs from count·W by less than 1.

    Arguments:
        weights: W, with shape `(n,)`, sum 1.
        u: One random number in [0, 1[.

    References:
        Douc, Cappé, Moulines, Comparison of Resampling Schemes for Particle Filtering, 2005.
        https://arxiv.org/abs/cs/0507025
    """
    count = len(weights) if count is None else count
    places = (torch.arange(count, dtype=torch.float64, device=weights.device) + u) / count
    edges = weights.double().cumsum(0)
    edges = edges / edges[-1]
    last = int(weights.nonzero()[-1])  # rounding must not choose a sample of no weight
    return torch.searchsorted(edges, places, right=True).clamp_max(last)
