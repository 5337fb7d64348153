"""The settings of guidance, checked before anything runs."""

import math
from dataclasses import dataclass, replace

from ..kernels.config import KernelConfig
from ..kernels.quoted import quoted
from .companions import FEW, STRENGTH_SHARE
from .modes import MODES, Mode

__all__ = ["GuidanceConfig"]


@dataclass(frozen=True)
class GuidanceConfig:
    """The settings of guidance.

    Arguments:
        strength: How fast samples move: λ of `flow` and `paper`, α of `official` and
            `official_l2norm`. 0 does nothing.
        start_percent: Where in the noise schedule guidance begins, in [0, 1].
        end_percent: Where guidance ends, in ]start_percent, 1].
        mode: One of `MODES`.
        kernel: The kernel. None takes the kernel of the mode: RBF with three bandwidths, the cubic
            polynomial in `official`, or RBF with h = 0.75 in `official_l2norm`.
        preserve: The upper limit p of guidance in `flow`, in [0, 1]: guidance never moves a sample
            further than (1 − p)/p × the model's own step. 0 sets no limit.
        companions: Whether each sample follows one reference (`companions.py`).

    Raises:
        ValueError: The mode is unknown, the strength is negative or not finite, the window is
            empty, `preserve` is outside of [0, 1], or a published mode shall compare features.
    """

    strength: float = 100.0
    start_percent: float = 0.0
    end_percent: float = 0.75
    mode: str = "flow"
    kernel: KernelConfig | None = None
    preserve: float = 0.5
    companions: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {quoted(self.mode)}: choose one of {', '.join(MODES)}")
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
                f"mode {self.mode} compares whole latents, not {space}: set feature_space of "
                "MMDKernel to latent, or mode to flow"
            )

    def for_batch(self, batch: int, contrast: bool = False) -> "GuidanceConfig":
        """The settings for a batch of that many samples; small batches follow companions.

        Arguments:
            batch: The number of samples.
            contrast: Whether they follow a contrast, in which samples do not act on each other.
        """
        if batch >= FEW or not self.rules.companions or self.patches or contrast:
            return self  # even one image has many patches
        return replace(self, companions=True, strength=self.strength * STRENGTH_SHARE)

    @property
    def patches(self) -> bool:
        """Whether patches are compared instead of whole images."""
        return self.kernel_config.feature_space == "patches"

    @property
    def kernel_config(self) -> KernelConfig:
        """The kernel that is used, also if `kernel` is None."""
        return self.kernel or self.rules.kernel

    @property
    def rules(self) -> Mode:
        """The mode of that name."""
        return MODES[self.mode]
