"""What a user sets for guidance, checked before anything runs."""

import math
from dataclasses import dataclass, replace

from ..kernels.config import KernelConfig
from .companions import FEW, GENTLY
from .modes import MODES, Mode

__all__ = ["GuidanceConfig"]


@dataclass(frozen=True)
class GuidanceConfig:
    """What a user sets.

    Arguments:
        strength: λ of `flow` and `paper`, α of `official`; 0 does nothing.
        start_percent: Where in the noise schedule guidance begins, in [0, 1].
        end_percent: Where it ends, in ]start, 1].
        mode: One of `MODES`.
        kernel: The kernel; None takes the mode's own: three RBF bandwidths, or the cubic polynomial
            in `official`.
        companions: Whether each sample follows a reference of its own, see `companions.py`.
        preserve: How much of the model's own step `flow` leaves alone, in [0, 1]: guidance moves a
            sample by at most (1 − preserve) / preserve of it. 0 sets no limit.

    Raises:
        ValueError: An unknown mode, a strength that is negative or not finite, an empty window, a
            preserve outside of [0, 1], or features in a published mode.
    """

    strength: float = 100.0
    start_percent: float = 0.0
    end_percent: float = 0.75
    mode: str = "flow"
    kernel: KernelConfig | None = None
    preserve: float = 0.5
    companions: bool = False

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}: choose one of {', '.join(MODES)}")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"strength must be 0 or a positive number, not {self.strength}")
        if not 0 <= self.start_percent < self.end_percent <= 1:
            raise ValueError(
                f"start_percent ({self.start_percent}) must lie below end_percent "
                f"({self.end_percent}), both between 0 and 1: swap them or widen the window"
            )
        if not 0 <= self.preserve <= 1:
            raise ValueError(f"preserve must lie between 0 and 1, not {self.preserve}")
        space = self.kernel_config.feature_space
        if space != "latent" and not self.rules.features:
            raise ValueError(
                f"mode {self.mode} compares whole latents, not {space}: set feature_space of MMDKernel "
                "to latent, or mode to flow"
            )

    def for_batch(self, batch: int) -> "GuidanceConfig":
        """The settings for that many samples: few follow companions, gently (`companions.py`)."""
        if batch >= FEW or not self.rules.companions or self.patches:
            return self  # even one image has many patches
        return replace(self, companions=True, strength=self.strength * GENTLY)

    @property
    def patches(self) -> bool:
        """Whether patches are compared, not features of whole images."""
        return self.kernel_config.feature_space == "patches"

    @property
    def kernel_config(self) -> KernelConfig:
        """The kernel that is used."""
        return self.kernel or KernelConfig(kernel=self.rules.kernel)

    @property
    def rules(self) -> Mode:
        """The mode itself."""
        return MODES[self.mode]
