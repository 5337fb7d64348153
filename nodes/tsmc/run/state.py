"""What a run of TRI-TSMC knows so far. It never changes: each node returns a new one, so ComfyUI may cache them."""

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
    """A twist of one sample at a time: matrix products round by how many rows there are."""

    def __init__(self, twist: GradientTwist):
        self.twist, self.size = twist, twist.size

    def __call__(self, x0: Tensor, step: int) -> tuple[slice, Tensor]:
        parts = [self.twist(one, step) for one in x0.split(1)]
        return parts[0][0], torch.cat([features for _, features in parts])


@dataclass(frozen=True, eq=False)
class Batch:
    """Paths whose scores are not known yet.

    Attributes:
        samples: Their images as raw LATENT, with shape `(B, C, *)`.
        h, H: As in `Paths`; of the first batch, whose twist is not known yet, with p = 0.
        recording: Of the first batch.
        mask: Where images are drawn anew, with shape `(1, …)`, or None.
    """

    samples: Tensor
    h: Tensor
    H: Tensor
    recording: Recording | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class TSMCState:
    """A run.

    Attributes:
        config: The settings.
        noise: The NOISE that the chain begins with; its seed is that of the run.
        sigmas: The schedule.
        latent: The LATENT that all particles begin with, of one image.
        micro_batch: How many particles go through the model at once.
        steps: The chain, from the first batch on.
        latent_format: The model's.
        device: Where the model draws.
        feature: What turns the chain, known once the first batch is scored.
        slope: ∇f of latents of the model, with f = λ r or its surrogate; None turns nothing.
        jacobians: How the model's estimates follow noisy samples, also as the first batch tells if that was a pilot.
        surrogate: f and ∇f where it was fitted.
        reward: The reward that the batches are scored by, if there is one, as it stays.
        learning: What the scored batches say.
        samples: Images of all scored paths, raw LATENT, with shape `(n, C, *)`.
        batch: Paths that wait for their scores.
        estimates: How many denoised estimates were made.
        scored: How often a sample was scored.
        notices: What the user should know, in sentences.
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
        """How many paths were scored."""
        return 0 if self.samples is None else len(self.samples)

    def twist(self, mask: Tensor | None) -> EachByItself | None:
        """The twist where `mask`, with shape `(1, …)`, lets it act."""
        if self.slope is None:
            return None
        mask = None if mask is None else mask[:1].to(self.device)
        blocks = self.config.time_blocks
        return EachByItself(GradientTwist(self.slope, self.steps, blocks, mask, self.jacobians))


def template(latent: dict, node: str) -> tuple[dict, tuple[str, ...]]:
    """The first image of a LATENT, and what to say if there are more.

    Raises:
        ValueError: Latents of several kinds at once.
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
    """Before anything is drawn."""
    first, notices = template(latent, node)
    if config.time_blocks > 1 and config.too_many_parameters:
        notices += (
            f"time_blocks {config.time_blocks} is more than {config.paths} images can settle: keep it at "
            f"{max(1, config.paths // 32)} or less, or raise particles.",
        )
    return TSMCState(config, noise, sigmas, first, micro_batch, notices=notices)
