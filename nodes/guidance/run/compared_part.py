"""The part of a run's latents that is compared with references.

Some models draw latents of several kinds at once, for example a film and its sound. ComfyUI packs
them into one tensor. The picture among them is guided, and the rest is left to the model.

A film is compared with pictures by its mean over time. With x = x̂0 + σ·n for each of T frames, the
mean times √T has the same noise σ, and the references are multiplied by √T as well. All frames of a
film are moved equally, so guidance changes how the film looks, and its motion is the model's.

Where a mask keeps the images, they are not compared (`open_part.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from .open_part import OpenPart, open_part

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.samplers import CFGGuider

__all__ = ["ComparedPart", "compared_part", "frames"]


@dataclass(frozen=True)
class ComparedPart:
    """The part of latents `(B, *)` that is compared with references.

    Arguments:
        shape: The shape `(C, *)` of a picture that is packed with other latents into `(B, 1, P)`;
            None if the latents are the pictures.
        first: Where a packed picture begins.
        frames: The number of frames T of films that are compared with pictures; otherwise 1.
        open: Where a mask lets the run draw; None if it draws everywhere.
    """

    shape: tuple[int, ...] | None = None
    first: int = 0
    frames: int = 1
    open: OpenPart | None = None

    def within(self, mask: Tensor) -> ComparedPart:
        """This part where a mask lets the run draw.

        Arguments:
            mask: How far each number of the latents may change, in [0, 1], with their shape.
        """
        return replace(self, open=open_part(self.share(mask)))

    @property
    def is_all(self) -> bool:
        """Whether latents are compared as they are."""
        return self.shape is None and self.frames == 1 and self.open is None

    def pictures(self, latents: Tensor) -> Tensor:
        """The pictures or films among the latents, with shape `(B, C, *)`."""
        if self.shape is None:
            return latents
        return latents[:, 0, self._numbers].reshape(-1, *self.shape)

    def still(self, pictures: Tensor) -> Tensor:
        """What of the pictures is compared: of films `(B, C, T, H, W)`, `(B, C, 1, H, W)`."""
        if self.frames == 1:
            return pictures
        return pictures.mean(2, keepdim=True) * math.sqrt(self.frames)

    def whole(self, latents: Tensor) -> Tensor:
        """What of the latents would be compared without a mask, with shape `(B, C, *)`."""
        return self.still(self.pictures(latents))

    def cut(self, whole: Tensor) -> Tensor:
        """What of `whole` is compared, with shape `(B, C, *)`."""
        return whole if self.open is None else self.open.cut(whole)

    def of(self, latents: Tensor) -> Tensor:
        """What of the latents is compared, with shape `(B, C, *)`."""
        return self.cut(self.whole(latents))

    def noisy(
        self, x: Tensor, kept: Tensor | None, signal: float, level: float | None = None
    ) -> Tensor:
        """What of noisy latents is compared: at kept places their noise alone.

        Arguments:
            x: The noisy latents.
            kept: The latents that a mask keeps, or None.
            signal: How much of them is in `x`.
            level: How loud the noise of `x` is, if a run adds none at kept places.
        """
        if self.open is None or kept is None:
            return self.of(x)
        noise = self.whole(x)
        if level is None:
            noise = noise - signal * self.open.kept(self.whole(kept))
        else:
            noise = self.open.filled(noise, level)
        return noise[(..., *self.open.box)]

    def share(self, mask: Tensor) -> Tensor:
        """How far each number of `whole` may change; `mask` says it of the latents."""
        return self.whole(mask) / math.sqrt(self.frames)

    def moved(self, latents: Tensor, displacement: Tensor) -> Tensor:
        """The latents, of which the compared part is moved by its `displacement`."""
        if self.open is not None:
            displacement = self.open.whole(displacement)
        if self.frames > 1:
            frame = displacement / math.sqrt(self.frames)
            displacement = frame.expand(-1, -1, self.frames, *frame.shape[3:])
        if self.shape is None:
            return latents + displacement
        latents = latents.clone()
        latents[:, 0, self._numbers] += displacement.flatten(1)
        return latents

    @property
    def _numbers(self) -> slice:
        return slice(self.first, self.first + math.prod(self.shape))


def compared_part(
    guider: CFGGuider, noise: Tensor, latent_format: LatentFormat, references: Tensor
) -> ComparedPart | None:
    """What of the latents of a run is compared; None if no picture can be told apart in them.

    Arguments:
        guider: ComfyUI's guider of this run.
        noise: The noise of the run.
        latent_format: The latent format of the model.
        references: Latents with the shape of the references, `(N, C, *)`.
    """
    dimensions, shape, first = latent_format.latent_dimensions, None, 0
    if noise.ndim == 3 and dimensions >= 2:
        packed = _packed_picture(guider, noise.shape[-1], dimensions, references.shape[1])
        if packed is None:
            return None
        shape, first = packed
    drawn = (1, *shape) if shape else noise.shape
    count = drawn[2] if len(drawn) == 5 and frames(references) == 1 else 1
    return ComparedPart(shape, first, count)


def frames(latents: Tensor) -> int:
    """How many frames each of the latents has; pictures have one."""
    return latents.shape[2] if latents.ndim == 5 else 1


def _packed_picture(
    guider: CFGGuider, numbers: int, dimensions: int, channels: int
) -> tuple[tuple[int, ...], int] | None:
    """The shape and the first number of the picture that is packed with other latents.

    Arguments:
        guider: ComfyUI's guider of this run.
        numbers: How many numbers are packed.
        dimensions: How many dimensions pictures have.
        channels: The channels of the references, which decide between several pictures.
    """
    shapes = _packed_shapes(guider)
    if sum(map(math.prod, shapes)) != numbers:
        return None
    pictures, first = [], 0
    for shape in shapes:
        if len(shape) == dimensions + 1:
            pictures.append((shape, first))
        first += math.prod(shape)
    fitting = [picture for picture in pictures if picture[0][0] == channels]
    return next(iter(fitting + pictures), None)


def _packed_shapes(guider: CFGGuider) -> list[tuple[int, ...]]:
    """The shapes of latents that are packed into one tensor, without the batch.

    ComfyUI tells them to the model with each prompt. The list is empty if it does not.
    """
    for entries in guider.conds.values():
        for entry in entries or ():
            held = entry.get("model_conds", {}).get("latent_shapes")
            if held is not None:
                return [tuple(shape[1:]) for shape in held.cond]
    return []
