"""The pictures of references: decoded, or as small as they were kept."""

from collections.abc import Sequence

import comfy.model_management
from torch import Tensor

from ...mmd_core import References


def reference_pictures(
    references: References, indices: Sequence[int], vae=None
) -> list[Tensor | None]:
    """One picture of each reference that is asked for, with shape `(H, W, 3)`; None where there is none.

    Arguments:
        vae: Decodes the latents; without it pictures have the size of latents.
    """
    if vae is not None:
        return [_decoded(vae, references.latents[j : j + 1]) for j in indices]
    if references.thumbnails is None:
        return [None for _ in indices]
    return [references.thumbnails[j].movedim(0, -1) for j in indices]


def _decoded(vae, latent: Tensor) -> Tensor:
    comfy.model_management.throw_exception_if_processing_interrupted()
    return first_frames(vae.decode(latent))[0]


def first_frames(images: Tensor) -> Tensor:
    """The pictures that a VAE decodes, with shape `(B, H, W, 3)`; of films the first frames."""
    return images[:, 0] if images.ndim == 5 else images
