"""The state of a run of TRI-TSMC. It is immutable: each node returns a new state, so ComfyUI may cache it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ....mmd_core.tsmc import (
    GradientTwist,
    Learning,
    Recording,
    Transition,
    TSMCConfig,
    white,
)

__all__ = ["Batch", "TSMCState", "empty_state"]


class EachByItself:
    """Evaluates a twist on one sample at a time: the rounding of matrix products depends on the number of rows."""

    def __init__(self, twist: GradientTwist):
        self.twist, self.size = twist, twist.size

    def __call__(self, x0: Tensor, step: int) -> tuple[slice, Tensor]:
        parts = [self.twist(one, step) for one in x0.split(1)]
        return parts[0][0], torch.cat([features for _, features in parts])


@dataclass(frozen=True, eq=False)
class Batch:
    """Paths whose scores are not known yet.

    Attributes:
        samples: The final samples as raw LATENT, with shape `(B, C, *)`.
        h, H: As in `Paths`; p = 0 for a pilot batch, whose twist is not known yet.
        recording: The recording of a pilot batch; else None.
        mask: Where images are drawn anew, with shape `(1, *)`, or None.
    """

    samples: Tensor
    h: Tensor
    H: Tensor
    recording: Recording | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class TSMCState:
    """The state of a run.

    Attributes:
        config: The settings.
        noise: The NOISE of the initial samples; its seed is the seed of the run.
        sigmas: The noise schedule.
        latent: The initial LATENT of all particles, with one image.
        micro_batch: The number of particles in one call of the model; 0 means all.
        steps: The chain; empty before the first batch.
        latent_format: The latent format of the model.
        device: The device of the model.
        feature: The feature in use: `gradient`, `surrogate` or `none`; "" until it is known.
        slope: ∇f as a function of latents in the space of the model, with f = λ r or its surrogate; None means no
            steering.
        jacobians: The estimates of ∂x̂0/∂x; after a pilot batch, one of them is made from its samples.
        surrogate: The fitted surrogate f, with its gradient; None if there is none.
        reward: The reward that scores the batches; None if the scores come from other nodes.
        learning: All scored paths and θ; None before the first batch is scored.
        samples: The final samples of all scored paths as raw LATENT, with shape `(n, C, *)`.
        batch: The paths that wait for their scores, or None.
        estimates: The number of denoised estimates so far.
        scored: The number of scores so far.
        notices: Sentences for the user.
    """

    config: TSMCConfig
    noise: object
    sigmas: Tensor
    latent: dict
    micro_batch: int
    steps: tuple[Transition, ...] = ()
    latent_format: object = None
    device: torch.device | None = None
    feature: str = ""
    slope: Callable[[Tensor], Tensor] | None = None
    jacobians: tuple[Callable, ...] = (white,)
    surrogate: object = None
    reward: object = None
    learning: Learning | None = None
    samples: Tensor | None = None
    batch: Batch | None = None
    estimates: int = 0
    scored: int = 0
    notices: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """p, the number of parameters of the twist."""
        return 0 if self.slope is None else self.config.time_blocks * len(self.jacobians)

    @property
    def drawn(self) -> int:
        """The number of scored paths."""
        return 0 if self.samples is None else len(self.samples)

    def twist(self, mask: Tensor | None) -> EachByItself | None:
        """The twist, multiplied by `mask` with shape `(1, *)`; None if nothing steers the chain."""
        if self.slope is None:
            return None
        mask = None if mask is None else mask[:1].to(self.device)
        blocks = self.config.time_blocks
        return EachByItself(GradientTwist(self.slope, self.steps, blocks, mask, self.jacobians))


def template(latent: dict, node: str) -> tuple[dict, tuple[str, ...]]:
    """The first image of a LATENT, and a notice if there are more images.

    Raises:
        ValueError: The LATENT is nested: it holds latents of several kinds.
    """
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise ValueError(
            f"{node}: latents of several kinds at once (picture and sound) cannot be steered: connect a latent of "
            "pictures"
        )
    first = {**latent, "samples": samples[:1]}
    first.pop("batch_index", None)
    mask = latent.get("noise_mask")
    if mask is not None:
        first["noise_mask"] = mask[:1]
    if len(samples) == 1:
        return first, ()
    return first, (
        f"Of the {len(samples)} images of latent only the first was used: particles says how many are drawn.",
    )


def empty_state(
    config: TSMCConfig, noise, sigmas, latent, micro_batch: int, node: str
) -> TSMCState:
    """The state before anything is drawn."""
    first, notices = template(latent, node)
    if config.time_blocks > 1 and config.too_many_parameters:
        notices += (
            f"time_blocks {config.time_blocks} is more than {config.paths} images can settle: keep it at "
            f"{max(1, config.paths // 32)} or less, or raise particles.",
        )
    return TSMCState(config, noise, sigmas, first, micro_batch, notices=notices)
