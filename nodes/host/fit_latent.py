"""Crops or scales latents to one size."""

from collections import Counter

import comfy.model_management
from torch import Tensor
from torch.nn.functional import interpolate

from .large_tensor import allocate


def usual_size(latents: list[Tensor]) -> tuple[int, int]:
    """The most frequent height and width of the latents.

    Of equally frequent sizes, it is the one with the largest area.
    """
    counts = Counter(tuple(latent.shape[-2:]) for latent in latents)
    return max(counts, key=lambda size: (counts[size], size[0] * size[1], size))


def needs_scaling(latent: Tensor, height: int, width: int) -> bool:
    """Whether the latent must be scaled to get this size.

    It need not if cropping along one axis is enough.
    """
    h, w = latent.shape[-2:]
    return not (h == height and w >= width or w == width and h >= height)


def fit_latent(latent: Tensor, height: int, width: int, antialias: bool = True) -> Tensor:
    """The center crop of the latent, scaled if necessary, with shape `(1, *, height, width)`.

    Scaled latents (bicubic) are softer than the latents of a scaled image, and more so with
    antialiasing: in the demo world emoji, pictures of 1.25, 1.5 and 2 times the size keep .61, .55
    and .51 of the sharpness that they have if they are scaled before they are encoded, and without
    it .76, .74 and .71.
    """
    if needs_scaling(latent, height, width):
        h, w = latent.shape[-2:]
        scale = max(height / h, width / w)
        size = max(height, round(h * scale)), max(width, round(w * scale))
        flat = latent.float().reshape(1, -1, h, w)
        flat = interpolate(flat, size, mode="bicubic", antialias=antialias)
        latent = flat.reshape(*latent.shape[:-2], *size)
    h, w = latent.shape[-2:]
    top, left = (h - height) // 2, (w - width) // 2
    return latent[..., top : top + height, left : left + width]


def fit_latents(latents: list[Tensor], height: int, width: int, antialias: bool = True) -> Tensor:
    """All latents cropped or scaled to this size, with shape `(N, *, height, width)`."""
    fitted = allocate((len(latents), *latents[0].shape[1:-2], height, width))
    for j, latent in enumerate(latents):
        comfy.model_management.throw_exception_if_processing_interrupted()
        fitted[j : j + 1] = fit_latent(latent, height, width, antialias)
    return fitted
