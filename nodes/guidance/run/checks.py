"""Checks before guidance begins: references, captions and prompts must fit the images."""

from typing import Any

from comfy.latent_formats import LatentFormat
from torch import Tensor

from ....mmd_core import Base, GuidanceConfig, References
from ....mmd_core.guidance import contrast
from ...base.counted import counted
from ...host.prompts import entry_feature
from ...host.vae_match import wrong_vae
from .compared_part import frames
from .request import Request


def check_captions(references: References, config: GuidanceConfig, node: str) -> None:
    """Checks that the references have captions if the kernel compares prompts.

    Raises:
        ValueError: They have none.
    """
    prompt_kernel = config.kernel_config.prompt_kernel
    if prompt_kernel != "none" and references.prompts is None:
        raise ValueError(
            f"{node}: the kernel compares prompts (prompt_kernel {prompt_kernel}), but the "
            "references carry no captions. Connect captions and clip to EncodeReferenceLatents, or "
            "set prompt_kernel of MMDKernel to none."
        )


def check_settings(request: Request) -> None:
    """Checks that the settings suit the references, and the base images if any.

    Raises:
        ValueError: The references have no captions that the kernel needs, or the settings do not
            allow base images.
    """
    node, base = request.node, request.base
    check_captions(request.references, request.config, node)
    if base is None:
        return
    try:
        contrast.check_base(request.config, Base(base.latents, base.weights, base.prompts))
    except ValueError as error:
        raise ValueError(f"{node}: {error}") from error


def check_prompts(request: Request, entries: list[dict[str, Any]]) -> None:
    """Checks that captions and prompts were encoded by text encoders of the same kind.

    Arguments:
        request: What the node asks for. The references have captions.
        entries: The prompts, at least one.

    Raises:
        ValueError: They were not.
    """
    node, base = request.node, request.base
    have, want = request.references.prompts.shape[1], entry_feature(entries[0]).shape[1]
    if have != want:
        raise ValueError(
            f"{node}: the captions of the references have {have} features, the prompts "
            f"{want}: they come from different text encoders. Connect the clip of the checkpoint "
            "that draws to EncodeReferenceLatents."
        )
    have = want if base is None else base.prompts.shape[1]
    if have != want:
        raise ValueError(
            f"{node}: the captions of base have {have} features, the prompts {want}: they come "
            "from different text encoders. Connect the clip of the checkpoint that draws to "
            "MMDBaseImages."
        )


def check_fit(request: Request, pictures: Tensor, latent_format: LatentFormat) -> None:
    """Checks that the references, and base images if any, can be compared with the images.

    Arguments:
        request: What the node asks for.
        pictures: Latents with the shape of the images, `(B, C, *)`.
        latent_format: The latent format of the model.

    Raises:
        ValueError: They come from another VAE, or have another size or number of frames.
    """
    references, node = request.references, request.node
    trouble = wrong_vae(references, latent_format, pictures.shape[1])
    if trouble:
        raise ValueError(f"{node}: {trouble}")
    if request.base is not None:
        _check_alike(references, request.base, latent_format, node)
    have, want = frames(references.latents), frames(pictures)
    if have != want:
        raise ValueError(
            f"{node}: the latents of a reference have {counted(have, 'frame')}, those being drawn "
            f"{want}: encode references with as many frames as are drawn, or single pictures."
        )
    have, want = references.latents.shape[-2:], pictures.shape[-2:]
    if have != want and not request.resizes:
        raise ValueError(
            f"{node}: the references were encoded for another image size: their latents are "
            f"{have[1]}×{have[0]}, those being drawn {want[1]}×{want[0]}. Connect the latent_image "
            "of the sampler to target of EncodeReferenceLatents. If the node that draws chooses "
            "sizes of its own, as detailers and tiled upscalers do, set other_sizes to resize."
        )


def fits(
    request: Request, pictures: Tensor, latent_format: LatentFormat, entries: list[dict[str, Any]]
) -> bool:
    """Whether the references, and base images if any, fit a run.

    Arguments:
        request: What the node asks for.
        pictures: Latents with the shape of the images, `(B, C, *)`.
        latent_format: The latent format of the model.
        entries: The prompts.

    Raises:
        ValueError: They do not fit, and the strength is not 0.
    """
    try:
        check_settings(request)
        check_fit(request, pictures, latent_format)
        if request.compares_prompts and entries:
            check_prompts(request, entries)
    except ValueError:
        if request.guides:
            raise
        return False
    return True


def _check_alike(
    references: References, base: References, latent_format: LatentFormat, node: str
) -> None:
    """Checks that base images can be compared with the references.

    Raises:
        ValueError: They come from another VAE, or have another size.
    """
    other = references.vae and base.vae and references.vae != base.vae
    if other or wrong_vae(base, latent_format, references.latents.shape[1]):
        raise ValueError(
            f"{node}: the images of base and the references come from different VAEs. Connect "
            "MMDBaseImages to base, with the model and the references of this node."
        )
    have, want = base.latents.shape[-2:], references.latents.shape[-2:]
    if have != want or frames(base.latents) != frames(references.latents):
        raise ValueError(
            f"{node}: the images of base have another size than the references: their latents are "
            f"{have[1]}×{have[0]}, those of the references {want[1]}×{want[0]}. Connect the "
            "references of this node to MMDBaseImages, too."
        )
