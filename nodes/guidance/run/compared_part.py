"""The part of a run's latents that is compared with references: the picture.

Some models draw latents of several kinds at once, for example a film and its sound. ComfyUI packs
them into one tensor. The picture among them is guided, and the rest is left to the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.samplers import CFGGuider

__all__ = ["ComparedPart", "compared_part"]


@dataclass(frozen=True)
class ComparedPart:
    """The part of latents `(B, *)` that is compared with references.

    Arguments:
        shape: The shape `(C, *)` of a picture that is packed with other latents into `(B, 1, P)`;
            None if the latents are the pictures.
        first: Where a packed picture begins.
    """

    shape: tuple[int, ...] | None = None
    first: int = 0

    def of(self, latents: Tensor) -> Tensor:
        """The pictures, with shape `(B, C, *)`."""
        if self.shape is None:
            return latents
        return latents[:, 0, self._numbers].reshape(-1, *self.shape)

    def moved(self, latents: Tensor, displacement: Tensor) -> Tensor:
        """The latents, in which each picture is moved by its `displacement`."""
        if self.shape is None:
            return latents + displacement
        latents = latents.clone()
        latents[:, 0, self._numbers] += displacement.flatten(1)
        return latents

    @property
    def _numbers(self) -> slice:
        return slice(self.first, self.first + math.prod(self.shape))


def compared_part(
    guider: CFGGuider, noise: Tensor, latent_format: LatentFormat, channels: int
) -> ComparedPart | None:
    """What of the latents of a run is compared; None if no picture can be told apart in them.

    Arguments:
        guider: ComfyUI's guider of this run.
        noise: The noise of the run.
        latent_format: The latent format of the model.
        channels: The number of channels of the references. It decides between several pictures.
    """
    dimensions = latent_format.latent_dimensions
    if noise.ndim != 3 or dimensions < 2:
        return ComparedPart()
    shapes = packed_shapes(guider)
    if sum(map(math.prod, shapes)) != noise.shape[-1]:
        return None
    pictures, first = [], 0
    for shape in shapes:
        if len(shape) == dimensions + 1:
            pictures.append(ComparedPart(shape, first))
        first += math.prod(shape)
    fitting = [part for part in pictures if part.shape[0] == channels]
    return next(iter(fitting + pictures), None)


def packed_shapes(guider: CFGGuider) -> list[tuple[int, ...]]:
    """The shapes of latents that are packed into one tensor, without the batch.

    ComfyUI tells them to the model with each prompt. The list is empty if it does not.
    """
    for entries in guider.conds.values():
        for entry in entries or ():
            held = entry.get("model_conds", {}).get("latent_shapes")
            if held is not None:
                return [tuple(shape[1:]) for shape in held.cond]
    return []
