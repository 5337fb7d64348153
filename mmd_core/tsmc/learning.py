"""The iterations of TRI-TSMC: all paths so far, their importance weights, θ of the next batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .config import TSMCConfig
from .trust_region import project, tempered
from .weights import effective, log_mean_exp

__all__ = ["CONSTANT_SD", "BatchSummary", "Learning"]

# Rewards count as constant if their standard deviation is at most this times max(1, |mean|).
CONSTANT_SD = 1e-8


@dataclass(frozen=True)
class BatchSummary:
    """The summary of one batch of paths.

    Attributes:
        theta: θ of the proposal that the batch was drawn from.
        count: The number of paths.
        reward: The mean of the finite rewards, not standardized.
        best: The largest finite reward, not standardized.
        unusable: The number of rewards that are not finite; these paths have no weight.
        log_z: log Z_hat from this batch alone; Z_hat is unbiased. The reward is standardized if the
            settings say so.
        ess: The effective sample size of this batch, at most `count`.
        kl_spent: The estimate of KL(Q_θ ‖ P), the divergence of the proposal from the model, in
            nats.
        all_log_z: log Z_hat from all paths so far.
        all_ess: The effective sample size of all paths so far.
        tau: The tempering exponent τ of the update; None for a pilot batch, which makes no update.
        kl: KL(q_τ ‖ Q_θ) of that update, in nats; None for a pilot batch.
    """

    theta: tuple[float, ...]
    count: int
    reward: float
    best: float
    unusable: int
    log_z: float
    ess: float
    kl_spent: float
    all_log_z: float
    all_ess: float
    tau: float | None
    kl: float | None


@dataclass(frozen=True, eq=False)
class Learning:
    """Paths of all iterations, in float64 on the CPU. Immutable: each batch gives a new object.

    The weight of a path is relative to the mixture of all proposals so far (balance heuristic), not
    to the proposal that drew it.

    Attributes:
        config: The settings.
        theta: θ of the next batch, with shape `(p,)`.
        proposals: θ of each batch so far.
        counts: The number of paths of each batch.
        h, H: The statistics of all paths (`paths.py`), with shapes `(n, p)` and `(n, p, p)`.
        rewards: r of all paths, not standardized, with shape `(n,)`. A path whose reward is NaN or
            infinite has no weight.
        mean, sd: Mean and standard deviation for standardizing: those of the first batch, or 0 and
            1.
        summaries: The summary of each batch.
        excludes_pilot: Whether the pilot batch loses its weight as soon as there is a second batch.

    References:
        Veach, Guibas, Optimally Combining Sampling Techniques for Monte Carlo Rendering, 1995
        (balance heuristic). https://doi.org/10.1145/218380.218498
    """

    config: TSMCConfig
    theta: Tensor
    h: Tensor
    H: Tensor
    rewards: Tensor
    proposals: tuple[Tensor, ...] = ()
    counts: tuple[int, ...] = ()
    mean: float = 0.0
    sd: float = 1.0
    summaries: tuple[BatchSummary, ...] = ()
    excludes_pilot: bool = False

    @classmethod
    def start(cls, config: TSMCConfig, size: int) -> Learning:
        """The state before any batch, with θ = θ_0.

        Arguments:
            size: p, the number of parameters.
        """
        theta = torch.full((size,), config.theta_init, dtype=torch.float64)
        return cls(config, theta, *_no_paths(size))

    @staticmethod
    def scale_of(rewards: Tensor) -> tuple[float, float]:
        """Mean and standard deviation of the finite rewards.

        Raises:
            ValueError: No reward is finite.
        """
        usable = rewards[torch.isfinite(rewards)].double()
        if not len(usable):
            raise ValueError("all rewards are NaN or infinite: check the nodes that score")
        return usable.mean().item(), usable.std(correction=0).item()

    @classmethod
    def piloted(
        cls, config: TSMCConfig, h: Tensor, H: Tensor, rewards: Tensor, excludes_pilot: bool = False
    ) -> Learning:
        """The state after a pilot batch, which was drawn from the model itself (θ = 0).

        The pilot batch gives the scale of the rewards. The next batch uses θ_0, without an update:
        an update under the trust region would give a θ far below θ_0. θ_0 is scaled down until the
        KL divergence from the model is at most log n nats, since the weights of n paths cannot
        measure more, and at most `max_total_kl`. If all rewards are equal, θ is 0.

        Arguments:
            h, H, rewards: As for `learned`.
            excludes_pilot: Whether the reward function was made from these paths. They are then not
                independent of it, and have no weight once there are other paths.

        Raises:
            ValueError: No reward is finite.
        """
        h, H, rewards = _finite(h, H, rewards)
        mean, sd = cls.scale_of(rewards)
        if not config.standardize:
            mean, sd = 0.0, 1.0
        constant = _is_constant(mean, sd)
        initial = torch.full((h.shape[1],), config.theta_init, dtype=torch.float64)
        before = cls(
            config, torch.zeros_like(initial), *_no_paths(len(initial)), mean=mean,
            sd=1.0 if constant else sd, excludes_pilot=excludes_pilot,
        )  # fmt: skip
        drawn = before._with_batch(h, H, rewards)
        limit = min(config.max_total_kl, math.log(len(rewards)))
        theta = _capped(initial * (not constant), drawn.H.mean(0), limit)
        return replace(drawn, theta=theta, summaries=(drawn._summary(None, None),))

    def learned(self, h: Tensor, H: Tensor, rewards: Tensor) -> Learning:
        """Adds a batch that was drawn with the current `theta`, then updates θ from all paths.

        Arguments:
            h, H: The statistics of the batch (`paths.py`), with shapes `(B, p)` and `(B, p, p)`.
            rewards: r of each path, with shape `(B,)`.

        Raises:
            ValueError: No reward of the batch is finite.
        """
        h, H, rewards = _finite(h, H, rewards)
        self.scale_of(rewards)
        drawn, config = self._with_batch(h, H, rewards), self.config
        own = drawn.log_ratio(self.theta)
        step = tempered(drawn.tilt - own, config.kl_budget, own - drawn.log_mixture)
        theta = self.theta
        if len(theta):
            prior = torch.full_like(theta, config.theta_init)
            theta = project(
                theta, step.weights, drawn.h, drawn.H, config.kl_budget, prior,
                config.theta_prior_sd,
            )  # fmt: skip
            information = torch.tensordot(step.weights, drawn.H, 1)
            theta = _capped(theta, information, config.max_total_kl)
        summaries = (*self.summaries, drawn._summary(step.tau, step.kl))
        return replace(drawn, theta=theta, summaries=summaries)

    def _with_batch(self, h: Tensor, H: Tensor, rewards: Tensor) -> Learning:
        """The state with one more batch, drawn with the current θ."""
        return replace(
            self,
            proposals=(*self.proposals, self.theta),
            counts=(*self.counts, len(rewards)),
            h=torch.cat([self.h, h]),
            H=torch.cat([self.H, H]),
            rewards=torch.cat([self.rewards, rewards]),
        )

    def _summary(self, tau: float | None, kl: float | None) -> BatchSummary:
        """The summary of the last batch."""
        n = self.counts[-1]
        rewards = self.rewards[-n:]
        usable = rewards[torch.isfinite(rewards)]
        theta = self.proposals[-1]
        own = (self.tilt - self.log_ratio(theta))[-n:]
        return BatchSummary(
            theta=tuple(theta.tolist()),
            count=n,
            reward=usable.mean().item(),
            best=usable.max().item(),
            unusable=n - len(usable),
            log_z=log_mean_exp(own),
            ess=effective(own),
            kl_spent=0.5 * torch.einsum("p,npq,q->n", theta, self.H[-n:], theta).mean().item(),
            all_log_z=self.log_z,
            all_ess=self.ess,
            tau=tau,
            kl=kl,
        )

    @property
    def constant(self) -> bool:
        """Whether all rewards of the first batch are equal, so that there is nothing to learn."""
        if not self.config.standardize or not self.counts:
            return False
        return _is_constant(*self.scale_of(self.rewards[: self.counts[0]]))

    @property
    def tilt(self) -> Tensor:
        """λ (r − mean)/sd of all paths, with shape `(n,)`; −∞ where the reward is not finite."""
        tilt = self.tilt_of(self.rewards)
        return torch.where(torch.isfinite(tilt), tilt, -math.inf)

    def tilt_of(self, rewards: Tensor) -> Tensor:
        """λ (r − mean)/sd of any rewards, with shape `(B,)`, float64."""
        return self.config.reward_scale * (rewards.double() - self.mean) / self.sd

    def log_ratio(self, theta: Tensor) -> Tensor:
        """log dQ_θ/dP of all paths, with shape `(n,)`."""
        return self.h @ theta - 0.5 * torch.einsum("p,npq,q->n", theta, self.H, theta)

    @property
    def log_mixture(self) -> Tensor:
        """log dQ/dP of all paths, where Q is the mixture of the proposals, with shape `(n,)`.

        If the pilot batch is excluded, its values are ∞, which means weight 0. The shares of the
        other batches remain relative to all n paths and sum to less than 1. So a mean of weights
        over all n paths is the mean over the others.
        """
        first = 1 if self.excludes_pilot and len(self.counts) > 1 else 0
        shares = torch.tensor(self.counts, dtype=torch.float64) / sum(self.counts)
        each = torch.stack([self.log_ratio(theta) for theta in self.proposals[first:]])
        mixture = torch.logsumexp(each + shares[first:].log()[:, None], 0)
        mixture[: sum(self.counts[:first])] = math.inf
        return mixture

    @property
    def log_weights(self) -> Tensor:
        """log W of all paths, not normalized, with shape `(n,)`.

        The samples z with these weights approximate π.
        """
        return self.tilt - self.log_mixture

    @property
    def weights(self) -> Tensor:
        """W, the normalized importance weights, with shape `(n,)`, sum 1."""
        return torch.softmax(self.log_weights, 0)

    @property
    def log_z(self) -> float:
        """log Z_hat from all paths: consistent, with less variance than that of the last batch."""
        return log_mean_exp(self.log_weights)

    @property
    def ess(self) -> float:
        """The effective sample size of all paths."""
        return effective(self.log_weights)


def _is_constant(mean: float, sd: float) -> bool:
    """Whether rewards with this mean and standard deviation count as constant."""
    return sd <= CONSTANT_SD * max(1.0, abs(mean))


def _capped(theta: Tensor, information: Tensor, limit: float) -> Tensor:
    """θ, scaled down until ½ θᵀ `information` θ is at most `limit`.

    This is its KL divergence from the model, in nats.
    """
    kl = (0.5 * theta @ information @ theta).item()
    return theta * min(1.0, math.sqrt(limit / kl) if kl > 0 else 1.0)


def _no_paths(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """h, H and rewards of no paths, with p = `size`."""
    h, H, rewards = (
        torch.zeros(0, *rest, dtype=torch.float64) for rest in ((size,), (size, size), ())
    )
    return h, H, rewards


def _finite(h: Tensor, H: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A batch in float64, with finite h and H.

    A path whose h or H is not finite gets the reward NaN, so it has no weight.
    """
    h, H, rewards = h.double(), H.double(), rewards.detach().cpu().double()
    usable = torch.isfinite(h).all(1) & torch.isfinite(H).flatten(1).all(1)
    return h.nan_to_num(0, 0, 0), H.nan_to_num(0, 0, 0), torch.where(usable, rewards, math.nan)
