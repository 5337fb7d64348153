"""Decodes latent samples to images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management
import torch
from torch import Tensor

from ...pictures.reference_pictures import first_frames

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.sd import VAE

TEST_SIDE = 8  # the height and width of the latent of a test decode


def decoded(vae: VAE, samples: Tensor) -> Tensor:
    """The images of samples, with shape `(B, H, W, 3)`, in [0, 1]; of a video, the first frame.

    Samples are decoded one at a time. This needs the memory of one sample, and the user can
    interrupt it.

    Arguments:
        samples: As the LATENT socket carries them, with shape `(B, C, *)`.
    """
    images = []
    for sample in samples.split(1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        images.append(first_frames(vae.decode(sample))[:1, ..., :3].float().cpu())
    return torch.cat(images)


def check_vae(vae: VAE, latent_format: LatentFormat, node: str) -> None:
    """Checks that the VAE decodes latents with the number of channels of this format.

    Arguments:
        node: The name of the node, for messages.

    Raises:
        ValueError: It does not.
    """
    getattr(vae, "throw_exception_if_invalid", lambda: None)()
    channels, have = latent_format.latent_channels, getattr(vae, "latent_channels", None)
    if have in (None, channels):
        return
    try:  # some VAEs report another number than the format, so a test decode decides
        frames = [1] * (latent_format.latent_dimensions - 2)
        decoded(vae, torch.zeros(1, channels, *frames, TEST_SIDE, TEST_SIDE))
    except RuntimeError as error:
        raise ValueError(
            f"{node}: vae decodes latents of {have} channels, but the model draws {channels}: "
            "connect the VAE of the checkpoint that draws"
        ) from error
