"""The pictures of references: decoded from their latents, or their thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import comfy.model_management
from torch import Tensor

from ...mmd_core import References

if TYPE_CHECKING:
    from comfy.sd import VAE


def reference_pictures(
    references: References, indices: Sequence[int], vae: VAE | None = None
) -> list[Tensor | None]:
    """One picture with shape `(H, W, 3)` for each of the references `indices`.

    It is None for references without a thumbnail, if `vae` is None.

    Arguments:
        references: The reference set.
        indices: Which references to show.
        vae: Decodes the latents. Without it, the pictures are the thumbnails, which have the size
            of the latents.
    """
    if vae is not None:
        return [_decoded(vae, references.latents[j : j + 1]) for j in indices]
    if references.thumbnails is None:
        return [None for _ in indices]
    return [references.thumbnails[j].movedim(0, -1) for j in indices]


def _decoded(vae: VAE, latent: Tensor) -> Tensor:
    comfy.model_management.throw_exception_if_processing_interrupted()
    return first_frames(vae.decode(latent))[0]


def first_frames(images: Tensor) -> Tensor:
    """The images that a VAE decoded, with shape `(B, H, W, 3)`.

    Of a video, this is the first frame.
    """
    return images[:, 0] if images.ndim == 5 else images
