"""The pictures that samples stand for."""

import comfy.model_management
import torch
from torch import Tensor

from ...pictures.reference_pictures import first_frames

TRIAL = 8  # places of a latent along each axis


def decoded(vae, samples: Tensor) -> Tensor:
    """Pictures of samples, with shape `(B, H, W, 3)`, in [0, 1]; of films the first frames.

    They are decoded one at a time, which takes the memory of one and can be interrupted.

    Arguments:
        samples: As the LATENT socket carries them, with shape `(B, C, *)`.
    """
    pictures = []
    for sample in samples.split(1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        pictures.append(first_frames(vae.decode(sample))[:1, ..., :3].float().cpu())
    return torch.cat(pictures)


def check_vae(vae, latent_format, node: str) -> None:
    """Raises ValueError unless a VAE decodes latents of this format."""
    getattr(vae, "throw_exception_if_invalid", lambda: None)()
    channels, have = latent_format.latent_channels, getattr(vae, "latent_channels", None)
    if have in (None, channels):
        return
    try:  # some VAEs count in another way than the formats do
        frames = [1] * (latent_format.latent_dimensions - 2)
        decoded(vae, torch.zeros(1, channels, *frames, TRIAL, TRIAL))
    except RuntimeError as error:
        raise ValueError(
            f"{node}: vae decodes latents of {have} channels, but the model draws {channels}: connect the VAE of the "
            "checkpoint that draws"
        ) from error
