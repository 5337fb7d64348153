"""Importance weights: their mean, their effective sample size, and resampling."""

import math

import torch
from torch import Tensor

__all__ = ["effective", "log_mean_exp", "systematic"]


def log_mean_exp(log_weights: Tensor) -> float:
    """The logarithm of the mean of e^{log_weights}; −∞ if all log weights are −∞."""
    return (torch.logsumexp(log_weights, 0) - math.log(len(log_weights))).item()


def effective(log_weights: Tensor) -> float:
    """The effective sample size (Σ w)² / Σ w², in [1, n]; 0 if no log weight is finite."""
    if not torch.isfinite(log_weights).any():
        return 0.0
    weights = torch.softmax(log_weights, 0)
    return (1 / weights.square().sum()).item()


def systematic(weights: Tensor, u: float, count: int | None = None) -> Tensor:
    """Systematic resampling: the indices of the samples to copy, with shape `(count,)`.

    The number of copies of a sample differs from its expected value count·W by less than 1.

    Arguments:
        weights: W, with shape `(n,)`, sum 1.
        u: One random number in [0, 1[.
        count: The number of copies; None means n.

    References:
        Douc, Cappé, Moulines, Comparison of Resampling Schemes for Particle Filtering, 2005.
        https://arxiv.org/abs/cs/0507025
    """
    count = len(weights) if count is None else count
    places = (torch.arange(count, dtype=torch.float64, device=weights.device) + u) / count
    edges = weights.double().cumsum(0)
    edges = edges / edges[-1]
    last = int(weights.nonzero()[-1])  # so that rounding cannot choose a sample with weight 0
    return torch.searchsorted(edges, places, right=True).clamp_max(last)
