"""The update of one iteration: tempered importance weights, and the twist that fits them best.

References:
    Wang, Yang, Deng, Xu, TRI-TSMC, 2026 (equation 4.7, proposition 5.3). https://arxiv.org/abs/2605.25123
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Tempered", "project", "tempered"]

HALVINGS = 60  # of the interval of τ; more than the digits of float64


class Tempered(NamedTuple):
    """The result of `tempered`.

    Attributes:
        tau: τ in [0, 1].
        weights: ŵ ~ R^τ (times dQ/dQ_drawn with offsets), with shape `(n,)`, sum 1.
        kl: The estimate of KL(q_τ ‖ Q), in nats. It is at most ε, unless the paths without weight
            make it larger even for τ = 0; τ is 0 then.
    """

    tau: float
    weights: Tensor
    kl: float


def tempered(log_ratios: Tensor, budget: float, offsets: Tensor | None = None) -> Tempered:
    """The tempered target q_τ ~ Q R^τ with the largest τ ≤ 1 such that KL(q_τ ‖ Q) ≤ ε.

    q_τ minimizes KL(q ‖ π) under this constraint. KL(q_τ ‖ Q) grows with τ (its derivative is
    τ Var(log R)), so bisection finds τ = 1/(1 + λ), where λ is the Lagrange multiplier of the
    constraint.

    Arguments:
        log_ratios: log R of paths relative to the current proposal Q, with shape `(n,)`; −∞ means
            no weight.
        budget: ε, in nats. The constraint has no effect from log n on.
        offsets: log dQ/dQ_drawn, with shape `(n,)`, if the paths were drawn from another
            distribution Q_drawn.
    """
    drawn = torch.zeros_like(log_ratios) if offsets is None else offsets
    usable = torch.isfinite(log_ratios)
    ratios, base = log_ratios[usable], torch.logsumexp(drawn, 0)
    kept = drawn[usable]

    def at(tau: float) -> tuple[float, Tensor]:
        exponents = tau * ratios + kept
        total = torch.logsumexp(exponents, 0)
        weights = (exponents - total).exp()
        return ((weights * tau * ratios).sum() - (total - base)).item(), weights

    def found(tau: float) -> Tempered:
        kl, weights = at(tau)
        return Tempered(tau, torch.zeros_like(log_ratios).masked_scatter_(usable, weights), kl)

    if at(1.0)[0] <= budget:
        return found(1.0)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle)[0] <= budget else (low, middle)
    return found(low)


def project(
    theta: Tensor,
    weights: Tensor,
    h: Tensor,
    H: Tensor,
    budget: float,
    prior: Tensor,
    prior_sd: float = 0.5,
) -> Tensor:
    """The weighted maximum likelihood estimate of θ with a normal prior.

        θ' = (Ā + Λ)^-1 (Σ ŵ h + Λ θ_0),   Ā = Σ ŵ H,   Λ = Σ ŵ² / σ_θ²

    Without the prior, Q_θ is then closest to q_τ (forward KL). The step from θ is shortened until
    ½ (θ' − θ)ᵀ Ā (θ' − θ) ≤ ε. σ_θ needs no rescaling, because the features are scaled such that
    θ = 1 is the gradient itself.

    Arguments:
        theta: The current θ, with shape `(p,)`.
        weights: ŵ, with shape `(n,)`, sum 1.
        h, H: The statistics of the paths (`paths.py`), with shapes `(n, p)` and `(n, p, p)`.
        budget: ε, in nats.
        prior: θ_0, the mean of the prior, with shape `(p,)`.
        prior_sd: σ_θ; infinity means no prior.
    """
    information = torch.tensordot(weights, H, 1)
    shrink = weights.square().sum() / prior_sd**2
    ridge = shrink * torch.eye(len(theta), dtype=theta.dtype)
    wanted = weights @ h + shrink * prior
    # Without a prior, nothing determines θ of a feature that was never active: it does not change.
    new = torch.linalg.pinv(information + ridge, hermitian=True) @ wanted
    if shrink == 0:
        new = torch.where(information.diagonal() > 0, new, theta)
    move = new - theta
    length = (0.5 * move @ information @ move).item()
    return theta + move * min(1.0, math.sqrt(budget / length) if length > 0 else 1.0)
