"""What a VAE makes of pictures, and whether a model expects that."""

from collections.abc import Iterator

import comfy.latent_formats
import torch
from torch import Tensor

from ...mmd_core import References
from .fingerprint import vae_fingerprint

MEND = "connect the VAE of the checkpoint that draws to EncodeReferenceLatents"
FAMILIES = {
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
# Brightness, red against green, blue against yellow. Brightness alone tells little: all formats show it.
AXES = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [-0.5, -0.5, 1.0]])

AGREEMENT = 0.6  # of the other format, on average
WORST_AXIS = 0.4  # of the other format
MARGIN = 0.3  # over the model's own format


def pixel_unit(vae) -> int:
    """How many pixels wide and high one number of a latent is; 8 for a VAE that does not tell, and for None."""
    return int(getattr(vae, "spacial_compression_encode", lambda: 8)())


def target_size(target: dict, unit: int) -> tuple[int, int]:
    """The width and height of the latents that will be drawn with `target` by a model with that `unit`.

    Raises:
        ValueError: `target` holds no latents of images.
    """
    samples = target["samples"]
    if getattr(samples, "ndim", 0) not in (4, 5):
        raise ValueError(
            "EncodeReferenceLatents: target holds no images: connect the latent_image of the sampler"
        )
    # Empty latents made for another VAE are resized by the sampler, with this rounding.
    ratio = 1 if samples.any() else target.get("downscale_ratio_spacial", unit) / unit
    return round(samples.shape[-1] * ratio), round(samples.shape[-2] * ratio)


def pixel_size(vae, target: dict | None, width: int, height: int) -> tuple[int, int]:
    """The width and height in pixels at which the VAE makes latents of `target`'s size.

    Raises:
        ValueError: `target` holds no latents of images.
    """
    unit = pixel_unit(vae)
    if target is None:
        return max(unit, width // unit * unit), max(unit, height // unit * unit)  # as core rounds
    columns, rows = target_size(target, unit)
    return columns * unit, rows * unit


def agreement(references: References, latent_format) -> Tensor | None:
    """How well the preview that a format makes of the latents agrees with the pictures, with shape `(3,)`.

    Lin's concordance `2 Σ p y / (Σ p² + Σ y²)` of previews `p` and pictures `y` without their means, on
    each of `AXES`: 1 for equal ones, about 0 for unrelated ones. None for formats without a preview.
    """
    factors = torch.tensor(getattr(latent_format, "latent_rgb_factors", None) or [])  # (C, RGB)
    reshape = getattr(latent_format, "latent_rgb_factors_reshape", None)
    latents = references.latents
    channels = factors.shape[0] if reshape is None else latent_format.latent_channels
    if latents.ndim not in (4, 5) or latents.shape[1] != channels:
        return None
    latents = latents.mean(2) if latents.ndim == 5 else latents  # one frame
    if latent_format.latent_dimensions == 3:
        latents = latent_format.process_in(latents.unsqueeze(2)).squeeze(2)
    else:
        latents = latent_format.process_in(latents)
    latents = latents if reshape is None else reshape(latents)
    preview = torch.einsum("nchw,ck,ak->nahw", latents, factors, AXES)
    picture = torch.einsum("nkhw,ak->nahw", 2 * references.thumbnails - 1, AXES)
    preview = torch.nn.functional.adaptive_avg_pool2d(preview, picture.shape[-2:])
    preview, picture = (p - p.mean((0, 2, 3), keepdim=True) for p in (preview, picture))
    products = (preview * picture).sum((0, 2, 3))
    squares = (preview.square() + picture.square()).sum((0, 2, 3))
    return 2 * products / squares.clamp_min(1e-9)


def other_vae(references: References, vae) -> str | None:
    """A sentence if the references were encoded with other weights than those of `vae`, else None."""
    if vae is None or not references.vae or vae_fingerprint(vae) in ("", references.vae):
        return None
    return (
        "The references were encoded with another VAE than the one connected here, so guidance may bring in its colors: "
        f"{MEND}."
    )


def known_formats(channels: int) -> Iterator:
    """An instance of each of ComfyUI's latent formats that has so many channels."""
    base = comfy.latent_formats.LatentFormat
    for kind in vars(comfy.latent_formats).values():
        if isinstance(kind, type) and issubclass(kind, base) and kind.latent_channels == channels:
            try:
                yield kind()
            except TypeError:  # it wants arguments
                continue


def wrong_vae(references: References, latent_format) -> str | None:
    """A sentence if the references were clearly encoded with another VAE than the model expects, else None.

    Other numbers of channels tell at once. Where they are equal (SD 1.5 and SDXL), the pictures decide:
    does another format's preview of the latents look much more like them than that of the model's own?
    The thresholds accept misses to avoid false alarms. Measured with 80 pictures and latents made from 11
    formats' preview factors plus noise: no alarm for the right VAE in 10010 sets, grey, sepia, line art and
    one-colored ones among them. SD 1.5 and SDXL confused: noticed in all sets of 8 pictures down to an own
    agreement of 0.74, in 6 of 10 single pictures, never in grey ones. (The distilled encoder of Flux 2
    agrees with its format at 0.83.) Untrained encoders: 0 of 240; random mixtures of RGB: 3 of 100.
    """
    have, want = references.latents.shape[1], latent_format.latent_channels
    if have != want:
        return f"the references have {have} latent channels, but the model expects {want}: {MEND}"
    if references.latents.ndim - 2 > latent_format.latent_dimensions:
        return f"the references were encoded with the VAE of a video model, which this one is not: {MEND}"
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
        f"the references look as if they were encoded with the VAE of {looks}, but the model expects "
        f"latents of {expects}: {MEND}"
    )
