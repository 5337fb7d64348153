"""The iterations: all paths drawn so far, what they say, and the twist to draw the next ones with."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .config import TSMCConfig
from .trust_region import project, tempered
from .weights import effective, log_mean_exp

__all__ = ["CONSTANT", "Learning", "Pass"]

CONSTANT = 1e-8  # a standard deviation of rewards, relative to them if they are large, below which they tell nothing


@dataclass(frozen=True)
class Pass:
    """What one batch of paths did.

    Attributes:
        theta: θ of the proposal they were drawn from.
        count: How many there were.
        reward: Their mean reward, as the reward measures it.
        best: The largest.
        unusable: How many scores were not finite; these paths have no weight.
        log_z: log Ẑ of this batch by itself; Ẑ is unbiased. Of the reward as it is tilted by (standardised or not).
        ess: The effective number of its paths, of `count`.
        kl_spent: KL(Q_θ ‖ P), how far from the model they were drawn, in nats.
        all_log_z: log Ẑ of all paths so far.
        all_ess: Their effective number.
        tau: How far along the way to the target the next proposal was sought; None if none was.
        kl: KL(q_τ ‖ Q_θ) on that way.
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
    """Paths of all iterations, in float64 on the CPU; it never changes, each batch makes a new one.

    All paths count with their mixture weights: one drawn from Q_j is as good as one drawn from Q_k.

    Attributes:
        config: The settings.
        theta: θ of the next batch, with shape `(p,)`.
        proposals: θ of each batch that was drawn.
        counts: Their numbers of paths.
        h, H: Of all paths, with shapes `(n, p)` and `(n, p, p)`.
        rewards: r of all paths as the reward measures it, with shape `(n,)`; NaN or infinite is unusable.
        mean, sd: What rewards are standardised by: those of the first batch, or 0 and 1.
        passes: What each batch did.
        apart: Whether the first batch stops counting as soon as there is another.

    References:
        Veach, Guibas, Optimally Combining Sampling Techniques for Monte Carlo Rendering, 1995 (balance heuristic).
        https://doi.org/10.1145/218380.218498
    """

    config: TSMCConfig
    theta: Tensor
    proposals: tuple[Tensor, ...] = ()
    counts: tuple[int, ...] = ()
    h: Tensor | None = None
    H: Tensor | None = None
    rewards: Tensor | None = None
    mean: float = 0.0
    sd: float = 1.0
    passes: tuple[Pass, ...] = ()
    apart: bool = False

    @classmethod
    def start(cls, config: TSMCConfig, size: int, pilot: bool = False) -> "Learning":
        """Before the first batch; a `pilot` is drawn from the model itself, to learn the scale of its rewards.

        Arguments:
            size: p, the number of parameters.
        """
        first = 0.0 if pilot else config.theta_init
        return cls(config, torch.full((size,), first, dtype=torch.float64))

    @staticmethod
    def scale_of(rewards: Tensor) -> tuple[float, float]:
        """Mean and standard deviation of those rewards that are usable.

        Raises:
            ValueError: None is.
        """
        usable = rewards[torch.isfinite(rewards)].double()
        if not len(usable):
            raise ValueError(
                "all rewards are NaN or infinite: look for what is wrong with the scorer"
            )
        return usable.mean().item(), usable.std(correction=0).item()

    def piloted(self, h: Tensor, H: Tensor, rewards: Tensor, apart: bool = False) -> "Learning":
        """With the first batch, drawn from the model itself; the next one starts at θ_0, without an update.

        The trust region would hold θ far below θ_0, and the twist is trusted so far from the start; but no farther than
        log n nats from the model, which is all that weights of n paths can tell.

        Arguments:
            h, H, rewards: As for `learned`.
            apart: Whether the reward was made of these paths. They are then no samples of what it tilts, and have no
                weight once there are others.
        """
        config = self.config
        h, H, rewards = _sound(h, H, rewards)
        mean, sd = self.scale_of(rewards)
        if not config.standardize:
            mean, sd = 0.0, 1.0
        constant = sd <= CONSTANT * max(1.0, abs(mean))
        begin = torch.full((h.shape[1],), config.theta_init, dtype=torch.float64)
        drawn = replace(
            self, theta=torch.zeros_like(begin), mean=mean, sd=1.0 if constant else sd, apart=apart
        )
        drawn = drawn._with(h, H, rewards)
        most = min(config.max_total_kl, math.log(len(rewards)))
        theta = drawn._capped(begin * (not constant), drawn.H.mean(0), most)
        return replace(drawn, theta=theta, passes=(drawn._row(None, None),))

    def learned(self, h: Tensor, H: Tensor, rewards: Tensor) -> "Learning":
        """With a batch drawn at `theta`, and the twist improved by it.

        Arguments:
            h, H: Of the batch, with shapes `(B, p)` and `(B, p, p)`.
            rewards: r of each path, with shape `(B,)`.

        Raises:
            ValueError: No reward is usable.
        """
        h, H, rewards = _sound(h, H, rewards)
        self.scale_of(rewards)
        drawn, config = self._with(h, H, rewards), self.config
        own = drawn.log_ratio(self.theta)
        step = tempered(drawn.tilt - own, config.kl_budget, own - drawn.log_mixture)
        theta = self.theta
        if len(theta):
            prior = torch.full_like(theta, config.theta_init)
            theta = project(
                theta, step.weights, drawn.h, drawn.H, config.kl_budget, prior, config.theta_prior_sd
            )  # fmt: skip
            information = torch.tensordot(step.weights, drawn.H, 1)
            theta = drawn._capped(theta, information, config.max_total_kl)
        passes = (*self.passes, drawn._row(step.tau, step.kl))
        return replace(drawn, theta=theta, passes=passes)

    def _with(self, h: Tensor, H: Tensor, rewards: Tensor) -> "Learning":
        def joined(old: Tensor | None, new: Tensor) -> Tensor:
            return new if old is None else torch.cat([old, new])

        return replace(
            self,
            proposals=(*self.proposals, self.theta),
            counts=(*self.counts, len(rewards)),
            h=joined(self.h, h),
            H=joined(self.H, H),
            rewards=joined(self.rewards, rewards),
        )

    @staticmethod
    def _capped(theta: Tensor, information: Tensor, most: float) -> Tensor:
        """θ, made smaller if it led more than `most` nats from the model."""
        kl = (0.5 * theta @ information @ theta).item()
        return theta * min(1.0, math.sqrt(most / kl) if kl > 0 else 1.0)

    def _row(self, tau: float | None, kl: float | None) -> Pass:
        """What the last batch did."""
        n = self.counts[-1]
        rewards = self.rewards[-n:]
        usable = rewards[torch.isfinite(rewards)]
        theta = self.proposals[-1]
        own, everything = (self.tilt - self.log_ratio(theta))[-n:], self.log_weights
        spent = 0.5 * torch.einsum("p,npq,q->n", theta, self.H[-n:], theta).mean().item()
        return Pass(
            tuple(theta.tolist()), n, usable.mean().item(), usable.max().item(), n - len(usable),
            log_mean_exp(own), effective(own), spent, log_mean_exp(everything), effective(everything), tau, kl,
        )  # fmt: skip

    @property
    def constant(self) -> bool:
        """Whether the first batch's rewards were all alike, so that there is nothing to learn."""
        if not self.config.standardize or not self.counts:
            return False
        mean, sd = self.scale_of(self.rewards[: self.counts[0]])
        return sd <= CONSTANT * max(1.0, abs(mean))

    @property
    def tilt(self) -> Tensor:
        """λ r of all paths, standardised, with shape `(n,)`; −∞ where the reward is unusable."""
        tilt = self.config.reward_scale * (self.rewards - self.mean) / self.sd
        return torch.where(torch.isfinite(tilt), tilt, -math.inf)

    def log_ratio(self, theta: Tensor) -> Tensor:
        """log dQ_θ/dP of all paths, with shape `(n,)`."""
        return self.h @ theta - 0.5 * torch.einsum("p,npq,q->n", theta, self.H, theta)

    @property
    def log_mixture(self) -> Tensor:
        """log dQ/dP of all paths, Q the mixture that they were drawn from, with shape `(n,)`.

        Of a first batch that is apart it is ∞; Q has a total of less than 1 then, so that means over all paths are those
        over the ones that count.
        """
        first = 1 if self.apart and len(self.counts) > 1 else 0
        shares = torch.tensor(self.counts, dtype=torch.float64) / sum(self.counts)
        each = torch.stack([self.log_ratio(theta) for theta in self.proposals[first:]])
        mixture = torch.logsumexp(each + shares[first:].log()[:, None], 0)
        mixture[: sum(self.counts[:first])] = math.inf
        return mixture

    @property
    def log_weights(self) -> Tensor:
        """log W of all paths up to a constant, with shape `(n,)`: weighted by them, z is distributed like π."""
        return self.tilt - self.log_mixture

    @property
    def weights(self) -> Tensor:
        """W, with shape `(n,)`, sum 1."""
        return torch.softmax(self.log_weights, 0)

    @property
    def log_z(self) -> float:
        """log Ẑ of all paths: consistent, and less noisy than that of the last batch."""
        return log_mean_exp(self.log_weights)

    @property
    def ess(self) -> float:
        """The effective number of all paths."""
        return effective(self.log_weights)


def _sound(h: Tensor, H: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A batch in float64 of its own; a path that a broken model left without sums has no usable reward."""
    h, H, rewards = h.double(), H.double(), rewards.detach().cpu().double()
    whole = torch.isfinite(h).all(1) & torch.isfinite(H).flatten(1).all(1)
    return h.nan_to_num(0, 0, 0), H.nan_to_num(0, 0, 0), torch.where(whole, rewards, math.nan)
