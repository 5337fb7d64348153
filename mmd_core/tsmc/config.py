"""The settings of TRI-TSMC."""

import math
from dataclasses import dataclass

from ..kernels.quoted import quoted

__all__ = ["TWIST_FEATURES", "FINALS", "TSMCConfig"]

TWIST_FEATURES = ("auto", "gradient", "surrogate", "none")
FINALS = ("best", "resample", "all", "smc")
PATHS_PER_PARAMETER = 16  # at least this many paths for each entry of θ


@dataclass(frozen=True)
class TSMCConfig:
    """The settings of TRI-TSMC, checked when they are created.

    Arguments:
        particles: N, the number of paths in one batch, at least 2.
        iterations: K, the number of updates of the twist. (K + 1) N paths are drawn in total.
        kl_budget: ε in ]0, log N[, the maximum KL divergence of one update, in nats. At the
            maximum, about N e^{−ε} paths carry the weight.
        reward_scale: λ, the strength of the tilt e^{λ r}, at least 0.
        standardize: Whether r is measured in standard deviations of the reward of the first batch.
        feature: The gradient that steers the chain, one of `TWIST_FEATURES`. `gradient`: that of
            the reward. `surrogate`: that of a regression on the scores. `none`: no steering, that
            is, plain importance sampling. `auto`: `gradient` if the reward has one, else
            `surrogate`.
        time_blocks: The number of blocks that the chain is divided into. Each block has its own θ.
        theta_init: θ_0, the first value of each entry of θ and the mean of its prior. If the
            entries of a block sum to 1, the drift is the gradient itself.
        theta_prior_sd: σ_θ, the standard deviation of that prior.
        eta: η in ]0, 1], the amount of new noise that the ancestral sampler draws.
        max_total_kl: The maximum of KL(Q_θ ‖ P), the divergence of the proposal from the model, in
            nats.

    Raises:
        ValueError: A number is out of range, or the feature is unknown.
    """

    particles: int = 16
    iterations: int = 3
    kl_budget: float = 1.0
    reward_scale: float = 2.0
    standardize: bool = True
    feature: str = "auto"
    time_blocks: int = 1
    theta_init: float = 0.5
    theta_prior_sd: float = 0.5
    eta: float = 1.0
    max_total_kl: float = 10.0

    def __post_init__(self) -> None:
        if self.particles < 2:
            raise ValueError(f"particles must be at least 2, not {self.particles}: 16 is usual")
        if self.iterations < 0:
            raise ValueError(f"iterations must be 0 or more, not {self.iterations}")
        limit = math.log(self.particles)
        if not 0 < self.kl_budget < limit:
            raise ValueError(
                f"kl_budget must be above 0 and below log(particles) = {limit:.2f}, not "
                f"{self.kl_budget}: lower it, or raise particles. A larger value limits nothing"
            )
        if not (math.isfinite(self.reward_scale) and self.reward_scale >= 0):
            raise ValueError(
                f"reward_scale must be 0 or a positive number, not {self.reward_scale}"
            )
        if self.feature not in TWIST_FEATURES:
            raise ValueError(
                f"unknown feature {quoted(self.feature)}: choose one of {', '.join(TWIST_FEATURES)}"
            )
        if self.time_blocks < 1:
            raise ValueError(f"time_blocks must be at least 1, not {self.time_blocks}")
        if not 0 < self.eta <= 1:
            raise ValueError(
                f"eta must be above 0 and at most 1, not {self.eta}: set it to 1. Steering needs "
                "the noise that each step draws"
            )
        for name in ("theta_prior_sd", "max_total_kl"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    @property
    def paths(self) -> int:
        """The total number of paths."""
        return self.particles * (self.iterations + 1)

    @property
    def max_time_blocks(self) -> int:
        """The number of blocks, with two entries of θ each, that the paths can determine."""
        return max(1, self.paths // (2 * PATHS_PER_PARAMETER))
