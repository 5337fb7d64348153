"""Latent sizes for a VAE, and checks that the references come from the right VAE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import comfy.latent_formats
import torch
from torch import Tensor

from ...mmd_core import References
from ..base.counted import counted
from .fingerprint import vae_fingerprint
from .picture import picture

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.sd import VAE

CONNECT_VAE = "connect the VAE of the checkpoint that draws to EncodeReferenceLatents"
FAMILIES = {  # names for users, by the names of ComfyUI's latent formats
    "SD15": "SD 1.5",
    "SD_X4": "the SD x4 upscaler",
    "SDXL_Playground_2_5": "SDXL",  # the same VAE
    "SC_Prior": "Stable Cascade",
    "SC_B": "Stable Cascade (stage B)",
    "SD3": "SD 3",
    "Wan21": "Wan 2.1",
    "HunyuanVideo": "Hunyuan Video",
    "Cosmos1CV8x8x8": "Cosmos",
}
# Brightness, red-green, blue-yellow. Brightness alone cannot tell latent formats apart: all of them
# show it.
AXES = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [-0.5, -0.5, 1.0]])

# References are reported as those of another format only if, for this other format,
AGREEMENT = 0.6  # the mean agreement over the axes is at least this,
WORST_AXIS = 0.4  # the agreement of the worst axis is above this,
MARGIN = 0.3  # and the mean agreement exceeds that of the model's own format by this.


def pixel_unit(vae: VAE | None) -> int:
    """The spatial compression of the VAE, in pixels per latent element.

    The result is 8 if the compression is unknown or `vae` is None.
    """
    return int(getattr(vae, "spacial_compression_encode", lambda: 8)())


def target_size(target: dict[str, Any], unit: int) -> tuple[int, int]:
    """The width and height, in latent elements, at which a model samples the LATENT `target`.

    Arguments:
        target: The LATENT that the sampler gets.
        unit: Pixels per latent element of the model's VAE, from `pixel_unit`.

    Raises:
        ValueError: `target` holds no latents of images.
    """
    samples = picture(target["samples"])
    if getattr(samples, "ndim", 0) not in (4, 5):
        raise ValueError(
            "EncodeReferenceLatents: target holds no images: connect the latent_image of the "
            "sampler"
        )
    # The sampler resizes empty latents that were made for another VAE, with this rounding.
    ratio = 1 if samples.any() else target.get("downscale_ratio_spacial", unit) / unit
    return round(samples.shape[-1] * ratio), round(samples.shape[-2] * ratio)


def pixel_size(
    vae: VAE | None, target: dict[str, Any] | None, width: int, height: int
) -> tuple[int, int]:
    """The width and height in pixels at which the VAE makes latents of `target`'s size.

    Without `target`, these are `width` and `height`, rounded down to multiples of `pixel_unit`.

    Raises:
        ValueError: `target` holds no latents of images.
    """
    unit = pixel_unit(vae)
    if target is None:
        width, height = (max(unit, side // unit * unit) for side in (width, height))
        return width, height  # rounded as in ComfyUI
    columns, rows = target_size(target, unit)
    return columns * unit, rows * unit


def agreement(references: References, latent_format: LatentFormat) -> Tensor | None:
    """The agreement of the thumbnails with the previews of the latents in `latent_format`.

    For each of `AXES`, this is Lin's concordance correlation `2 Σ p y / (Σ p² + Σ y²)` of the
    centered previews `p` and thumbnails `y`: 1 if they are equal, about 0 if they are unrelated.
    The references must have thumbnails.

    Source: Lin, A Concordance Correlation Coefficient to Evaluate Reproducibility, Biometrics 1989.

    Returns:
        The agreement on each axis, with shape `(3,)`; None if the format has no RGB preview, or
        does not fit the shape of the latents.
    """
    factors = torch.tensor(getattr(latent_format, "latent_rgb_factors", None) or [])  # (C, RGB)
    reshape = getattr(latent_format, "latent_rgb_factors_reshape", None)
    latents = references.latents
    channels = factors.shape[0] if reshape is None else latent_format.latent_channels
    if latents.ndim not in (4, 5) or latents.shape[1] != channels:
        return None
    latents = latents.mean(2) if latents.ndim == 5 else latents  # over the frames
    if latent_format.latent_dimensions == 3:
        latents = latent_format.process_in(latents.unsqueeze(2)).squeeze(2)
    else:
        latents = latent_format.process_in(latents)
    latents = latents if reshape is None else reshape(latents)
    preview = torch.einsum("nchw,ck,ak->nahw", latents, factors, AXES)
    image = torch.einsum("nkhw,ak->nahw", 2 * references.thumbnails - 1, AXES)
    preview = torch.nn.functional.adaptive_avg_pool2d(preview, image.shape[-2:])
    preview, image = (p - p.mean((0, 2, 3), keepdim=True) for p in (preview, image))
    products = (preview * image).sum((0, 2, 3))
    squares = (preview.square() + image.square()).sum((0, 2, 3))
    return 2 * products / squares.clamp_min(1e-9)


def other_vae(references: References, vae: VAE | None) -> str | None:
    """A warning if the references were encoded with another VAE than `vae`, else None.

    VAEs count as different if the weights of their encoders differ.
    """
    if vae is None or not references.vae or vae_fingerprint(vae) in ("", references.vae):
        return None
    return (
        "The references were encoded with another VAE than the one that is connected to this "
        f"node, so guidance may change the colors: {CONNECT_VAE}."
    )


def known_formats(channels: int) -> Iterator[LatentFormat]:
    """An instance of each of ComfyUI's latent formats with this number of channels."""
    base = comfy.latent_formats.LatentFormat
    for kind in vars(comfy.latent_formats).values():
        if isinstance(kind, type) and issubclass(kind, base) and kind.latent_channels == channels:
            try:
                yield kind()
            except TypeError:  # a format that needs arguments
                continue


def wrong_vae(
    references: References, latent_format: LatentFormat, channels: int | None = None
) -> str | None:
    """A warning if the references clearly come from another VAE than the model expects, else None.

    A different number of channels is always a mismatch. If the numbers are equal (SD 1.5 and SDXL),
    the thumbnails decide: the function warns if another format's preview of the latents agrees with
    them much better than the preview of the model's own format. The thresholds prefer misses to
    false alarms.

    The thresholds were measured with 80 images, and with latents from the preview factors of 11
    formats plus noise. The right VAE: no false alarm in 10010 sets, which included grey, sepia,
    line art and one-colored images. SD 1.5 confused with SDXL: detected in all sets of 8 images
    down to an agreement of 0.74 with the own format, in 6 of 10 single images, and never in grey
    images. (The distilled encoder of Flux 2 has an agreement of 0.83 with its format.) Alarms for
    untrained encoders: 0 of 240. Alarms for random mixtures of RGB: 3 of 100.

    Arguments:
        references: The references.
        latent_format: The latent format of the model.
        channels: How many channels pictures have, if that is not what the format says: a format of
            latents of several kinds may name the channels of another kind.
    """
    have, want = references.latents.shape[1], channels or latent_format.latent_channels
    if have != want:
        return (
            f"the references have {counted(have, 'latent channel')}, but the model expects {want}: "
            f"{CONNECT_VAE}"
        )
    if references.latents.ndim - 2 > latent_format.latent_dimensions:
        return (
            "the references were encoded with the VAE of a video model, but the model draws "
            f"single images: {CONNECT_VAE}"
        )
    own = None if references.thumbnails is None else agreement(references, latent_format)
    if own is None or own.mean() > 1 - MARGIN:
        return None
    found = [(agreement(references, other), other) for other in known_formats(have)]
    found = [(a, other) for a, other in found if a is not None and a.min() > WORST_AXIS]
    best, other = max(found, key=lambda pair: pair[0].mean(), default=(own, latent_format))
    if best.mean() < max(AGREEMENT, own.mean() + MARGIN):
        return None
    looks, expects = (
        FAMILIES.get(type(f).__name__, type(f).__name__) for f in (other, latent_format)
    )
    return (
        f"the references look as if they were encoded with the VAE of {looks}, but the model "
        f"expects latents of {expects}: {CONNECT_VAE}"
    )
