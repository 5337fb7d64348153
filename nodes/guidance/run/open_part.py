"""Where a mask lets a run draw: only this part of the images is compared with the references.

What a mask keeps cannot be guided. If it were compared, it would decide how alike images and
references are, and the new part would hardly be guided. So images, references and finished images
are cut to the rectangle around all open places, and are 0 at places in it that every image keeps.

The kept part still says which references suit: guidance follows references with a similar one more
(`mmd_core/guidance/kept.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["OpenPart", "open_part"]

LEAST = 8  # the smallest height and width of the rectangle in latents, if the image is as large


@dataclass(frozen=True, eq=False)
class OpenPart:
    """The places at which at least one image of a batch may change.

    Arguments:
        places: 1 at open places, else 0, with shape `(1, C, *)`.
        box: The rectangle around them, as an index of the last two axes.
    """

    places: Tensor
    box: tuple[slice, slice]

    def cut(self, pictures: Tensor) -> Tensor:
        """What is compared of pictures `(B, C, *)`: the rectangle, with 0 at kept places."""
        return pictures[(..., *self.box)] * self.places[(..., *self.box)].to(pictures)

    def kept(self, pictures: Tensor) -> Tensor:
        """What every image keeps of pictures `(B, C, *)`, with 0 at open places."""
        return pictures * (1 - self.places).to(pictures)

    def filled(self, pictures: Tensor, number: float) -> Tensor:
        """Pictures `(B, C, *)` with this number at kept places."""
        return pictures.where(self.places.to(pictures) > 0, number)

    def whole(self, cut: Tensor) -> Tensor:
        """Pictures `(B, C, *)` that are `cut` at open places and 0 elsewhere."""
        pictures = cut.new_zeros(len(cut), *self.places.shape[1:])
        pictures[(..., *self.box)] = cut * self.places[(..., *self.box)].to(cut)
        return pictures


def open_part(mask: Tensor) -> OpenPart | None:
    """Where images may change; None if they may change everywhere or nowhere.

    Arguments:
        mask: How far each number may change, in [0, 1], with shape `(B, C, *)`.
    """
    places = (mask > 0).any(0, keepdim=True)
    share = places.float().mean().item()
    if share in (0.0, 1.0):
        return None
    plane = places.flatten(0, -3).any(0)
    box = _around(plane.any(1)), _around(plane.any(0))
    return OpenPart(places.to(torch.float32), box)


def _around(line: Tensor) -> slice:
    """The range that holds all true values of a line, made as long as `LEAST` if it is shorter."""
    at = line.nonzero().flatten().tolist()
    length = max(at[-1] + 1 - at[0], min(LEAST, len(line)))
    middle = (at[0] + at[-1] + 1) // 2
    first = min(max(0, middle - length // 2), len(line) - length)
    return slice(first, first + length)
