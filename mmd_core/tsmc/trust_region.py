"""One iteration: how far to trust the weights, and the twist that comes closest to them.

References:
    Wang, Yang, Deng, Xu, TRI-TSMC, 2026 (equation 4.7, proposition 5.3). https://arxiv.org/abs/2605.25123
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Tempered", "project", "tempered"]

HALVINGS = 60


class Tempered(NamedTuple):
    """The result of `tempered`.

    Attributes:
        tau: τ in ]0, 1].
        weights: ŵ ∝ R^τ, with shape `(n,)`, sum 1.
        kl: The estimate of KL(q_τ ‖ Q), at most ε.
    """

    tau: float
    weights: Tensor
    kl: float


def tempered(log_ratios: Tensor, budget: float, offsets: Tensor | None = None) -> Tempered:
    """The farthest point q_τ ∝ Q R^τ on the way from Q to the target with KL(q_τ ‖ Q) ≤ ε, in closed form.

    The constrained optimum of min KL(q ‖ π) has this form, and KL grows with τ (its derivative is τ Var(log R)):
    bisection finds the τ = 1/(1 + λ) of the dual.

    Arguments:
        log_ratios: log R of paths with respect to the current proposal Q, with shape `(n,)`; −∞ is no weight.
        budget: ε. From log n on there is no trust region.
        offsets: log dQ/dQ_drawn, where paths were drawn from another law, with shape `(n,)`.
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
    """Weighted maximum likelihood of θ under a normal prior: the member of the family closest to q_τ (forward KL).

        θ⁺ = (Ā + Λ)⁻¹ (Σ ŵ h + Λ θ_0),   Ā = Σ ŵ H,   Λ = Σ ŵ² / σ_θ²

    and no farther from θ than ½ (θ⁺ − θ)ᵀ Ā (θ⁺ − θ) ≤ ε. The prior's width is absolute: features are scaled such that
    θ = 1 is the plain gradient.

    Arguments:
        theta: The current θ, with shape `(p,)`.
        weights: ŵ, with shape `(n,)`, sum 1.
        h, H: Of the paths, with shapes `(n, p)` and `(n, p, p)`.
        budget: ε.
        prior: θ_0, with shape `(p,)`.
        prior_sd: σ_θ; infinity is no prior.
    """
    information = torch.tensordot(weights, H, 1)
    shrink = weights.square().sum() / prior_sd**2
    ridge = shrink * torch.eye(len(theta), dtype=theta.dtype)
    wanted = weights @ h + shrink * prior
    # A feature that never acted, without a prior, has nothing to be learned from and stays.
    new = torch.linalg.pinv(information + ridge, hermitian=True) @ wanted
    if shrink == 0:
        new = torch.where(information.diagonal() > 0, new, theta)
    move = new - theta
    length = (0.5 * move @ information @ move).item()
    return theta + move * min(1.0, math.sqrt(budget / length) if length > 0 else 1.0)
