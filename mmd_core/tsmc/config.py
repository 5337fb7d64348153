"""What a user sets, checked before anything runs."""

import math
from dataclasses import dataclass

__all__ = ["FEATURES", "FINALS", "TSMCConfig"]

FEATURES = ("auto", "gradient", "surrogate", "none")
FINALS = ("best", "resample", "all", "smc")
PATHS_PER_PARAMETER = 16


@dataclass(frozen=True)
class TSMCConfig:
    """The settings of TRI-TSMC.

    Arguments:
        particles: N, the paths of one iteration, at least 2.
        iterations: K, how often the twist is improved; K + 1 times N paths are drawn.
        kl_budget: ε in ]0, log N[, how far one iteration may go. The best N e^{−ε} paths or so lead it.
        reward_scale: λ, how strongly the model is tilted; of a standardised reward in standard deviations.
        standardize: Whether the reward is measured in standard deviations of what the model draws by itself.
        feature: What turns the chain, one of `FEATURES`: the reward's own gradient, that of a surrogate
            fitted to scores, nothing (plain importance sampling); `auto` takes the first that there is.
        time_blocks: Into how many parts with a θ of their own the chain is cut.
        theta_init: θ_0, where learning starts and what it is drawn to; 1 is the plain gradient.
        theta_prior_sd: σ_θ, how far it may go from there.
        eta: η in ]0, 1], the noise of the ancestral sampler.
        max_total_kl: How far from the model the proposal may go in all, in nats.

    Raises:
        ValueError: A number that is out of its range, or an unknown feature.
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

    def __post_init__(self):
        if self.particles < 2:
            raise ValueError(f"particles must be at least 2, not {self.particles}: 16 is usual")
        if self.iterations < 0:
            raise ValueError(f"iterations must not be negative, not {self.iterations}")
        most = math.log(self.particles)
        if not 0 < self.kl_budget < most:
            raise ValueError(
                f"kl_budget must lie above 0 and below log(particles) = {most:.2f}, not {self.kl_budget}: beyond that "
                "it limits nothing. Lower it, or raise particles"
            )
        if not (math.isfinite(self.reward_scale) and self.reward_scale >= 0):
            raise ValueError(
                f"reward_scale must be 0 or a positive number, not {self.reward_scale}"
            )
        if self.feature not in FEATURES:
            raise ValueError(
                f"unknown feature {self.feature!r}: choose one of {', '.join(FEATURES)}"
            )
        if self.time_blocks < 1:
            raise ValueError(f"time_blocks must be at least 1, not {self.time_blocks}")
        if not 0 < self.eta <= 1:
            raise ValueError(
                f"eta must lie above 0 and not above 1, not {self.eta}: SMC needs a sampler that draws noise, else "
                "duplicates never separate. 1 is usual"
            )
        for name in ("theta_prior_sd", "max_total_kl"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    @property
    def paths(self) -> int:
        """How many paths are drawn in all."""
        return self.particles * (self.iterations + 1)

    @property
    def too_many_parameters(self) -> bool:
        """Whether θ, two for each block, has more entries than so many paths can settle."""
        return 2 * self.time_blocks * PATHS_PER_PARAMETER > self.paths
