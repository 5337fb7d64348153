"""Encodes images one by one, except those whose latents are in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...host.faults import out_of_memory
from ...host.fingerprint import vae_key
from ...host.large_tensor import allocate
from ...pictures.fit_image import fit_image
from ..folder.image_folder import ReferenceSet
from ..folder.lazy_image import LazyImage, Loaded
from ..folder.refused import why
from .gather_references import NODE
from .latent_cache import LatentCache, entry_key

if TYPE_CHECKING:
    from comfy.sd import VAE

PIXELS = 1  # part of the cache key: increase it when the reading or resizing of images changes


def encode_images(
    vae: VAE, found: ReferenceSet, size: tuple[int, int], fit: str, cache: LatentCache
) -> tuple[Tensor, Tensor, int]:
    """Encodes every image at `size` (width and height in pixels).

    Images are encoded one at a time, because VAEs of video models would treat a batch as the frames
    of one video. If the run is interrupted, the finished latents stay in the cache.

    Returns:
        The latents, with shape `(N, C, *)`, the thumbnails (the images at the size of the latents),
        with shape `(N, 3, h, w)`, and how many of the N came from the cache.

    Raises:
        ValueError: An image cannot be read or encoded, or its latent is not finite.
    """
    n, cached, network = len(found.images), 0, vae_key(vae)
    progress = comfy.utils.ProgressBar(n)
    for j, (image, name) in enumerate(zip(found.images, found.names, strict=True)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        loaded = _load(image, name)
        key = entry_key("picture", PIXELS, network, loaded.digest, size, fit) if network else ""
        entry = cache.read(key)
        cached += entry is not None
        if entry is None:
            entry = _encode(vae, _decode(loaded, name), name, size, fit)
            cache.write(key, entry)
        if j == 0:
            latents, thumbnails = (
                allocate((n, *entry[part].shape[1:])) for part in ("latent", "thumbnail")
            )
        latents[j : j + 1], thumbnails[j : j + 1] = entry["latent"], entry["thumbnail"]
        progress.update(1)
    return latents, thumbnails, cached


def _load(image: LazyImage, name: str) -> Loaded:
    try:
        return image.load()
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _decode(loaded: Loaded, name: str) -> Tensor:
    try:
        return loaded.decode()
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> ValueError:
    advice = "the file changed after LoadReferenceSet read it: run again to leave it out"
    return ValueError(f"{NODE}: {name} {why(error)}: {advice}")


def _encode(
    vae: VAE, image: Tensor, name: str, size: tuple[int, int], fit: str
) -> dict[str, Tensor]:
    """The cache entry of an image: its latent and its thumbnail."""
    try:
        pixels = fit_image(image, *size, fit)
        latent = vae.encode(pixels[:, :, :, :3]).float().cpu()
        if not torch.isfinite(latent).all():
            raise ValueError(
                "its latent has NaN or infinite numbers; start ComfyUI with --fp32-vae"
            )
    except (RuntimeError, ValueError) as error:
        if out_of_memory(error):  # also in tiles; ComfyUI explains this error
            raise
        raise ValueError(f"{NODE}: {name} cannot be encoded with vae: {error}") from error
    thumbnail = interpolate(pixels.movedim(-1, 1), latent.shape[-2:], mode="area")
    return {"latent": latent, "thumbnail": thumbnail}
