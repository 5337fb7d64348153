"""The parts of a run that never change: the settings of the user, and the model that draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....mmd_core.tsmc import Transition, TSMCConfig
from ...host.particle_noise import InitialNoise

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat

__all__ = ["Latent", "ModelInfo", "Plan", "one_image", "plan_notices"]

Latent = dict[str, Any]  # a LATENT of ComfyUI: "samples" and optional entries


@dataclass(frozen=True, eq=False)
class Plan:
    """The settings of a run.

    Attributes:
        config: The settings of TRI-TSMC.
        noise: The noise of the initial samples; its seed is the seed of the run.
        sigmas: The noise schedule, with shape `(T + 1,)`.
        latent: The initial LATENT of all particles, with one image.
        micro_batch: The number of particles in one call of the model; 0 means all.
    """

    config: TSMCConfig
    noise: InitialNoise
    sigmas: Tensor
    latent: Latent
    micro_batch: int

    def at_once(self, count: int) -> int:
        """The number of particles in one call of the model, for a batch of `count`."""
        return self.micro_batch or count


@dataclass(frozen=True, eq=False)
class ModelInfo:
    """The facts about the model of the guider that a run needs.

    Attributes:
        steps: The transitions of its base chain, one for each step.
        latent_format: Converts between the LATENT socket and the latent space of the model.
        device: The device of the model.
    """

    steps: tuple[Transition, ...]
    latent_format: LatentFormat
    device: torch.device

    def latents(self, samples: Tensor) -> Tensor:
        """Samples of the LATENT socket in the latent space of the model, on its device."""
        return self.latent_format.process_in(samples).to(self.device)


def one_image(latent: Latent, node: str) -> Latent:
    """The LATENT with its first image alone.

    Raises:
        ValueError: The LATENT is nested: it holds latents of several kinds.
    """
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise ValueError(
            f"{node}: latents of several kinds at once (images and sound) cannot be steered: "
            "connect a latent of images alone"
        )
    first = {**latent, "samples": samples[:1]}
    first.pop("batch_index", None)
    mask = latent.get("noise_mask")
    if mask is not None:
        first["noise_mask"] = mask[:1]
    return first


def plan_notices(config: TSMCConfig, images: int) -> tuple[str, ...]:
    """Sentences for the user about the settings.

    Arguments:
        images: The number of images of the LATENT that the user connected.
    """
    notices = []
    if images != 1:
        notices.append(
            f"Of the {images} images of latent only the first was used: particles sets the number "
            "of images."
        )
    if config.time_blocks > config.max_time_blocks:
        notices.append(
            f"{config.paths} images are too few to learn {config.time_blocks} time_blocks: set it "
            f"to {config.max_time_blocks} or less, or raise particles."
        )
    return tuple(notices)
