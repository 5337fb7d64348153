"""A drawing in several runs: what a run knows of its images from the run before.

Runs of one drawing share the references, which keep what one run leaves for the next
(`mmd_core/guidance/unfinished.py`).
"""

from dataclasses import replace

import torch
from torch import Tensor

from ....mmd_core.guidance.unfinished import UNKNOWN, Unfinished
from .compared_part import ComparedPart
from .run_mask import RunMask

__all__ = ["Stages"]


class Stages:
    """One run of a drawing, with what the runs before it left.

    Arguments:
        notes: What runs towards these references left with noise.
        part: What of the latents is compared with the references.
        noise: The noise of the run, with shape `(B, *shape)`.
        latent_image: The latents from which the run starts, with the same shape, or None.
        full: Whether the noise at the start hides from what the run starts.

    Attributes:
        goes_on: Whether the run adds no noise: it goes on with images of another run.
        pictures: What of finished pictures the run starts from, as a hires pass does, or None.
        known: Companions that an earlier run of these images chose, or None.
        estimates: The last estimates of the clean latents of this run, or None.
    """

    def __init__(
        self,
        notes: Unfinished,
        part: ComparedPart,
        noise: Tensor,
        latent_image: Tensor | None,
        full: bool,
    ) -> None:
        self.notes, self.part = notes, part
        self.goes_on = latent_image is not None and not noise.any()
        self.begun = part.whole(latent_image) if self.goes_on else None
        shown = not (self.goes_on or full or latent_image is None)
        shown = shown and bool(latent_image.flatten(1).any(1).all())  # empty latents are zeros
        self.pictures = part.whole(latent_image) if shown else None
        self.known = notes.companions_of(self.begun) if self.goes_on else None
        self.estimates: Tensor | None = None

    def of_mask(self, mask: RunMask | None) -> RunMask | None:
        """The mask of the run; what it keeps is without the noise that an earlier run left."""
        if mask is None or not self.goes_on:
            return mask
        return replace(mask, latents=self.notes.clean(self.begun, mask.latents), goes_on=True)

    def finish(self) -> bool:
        """Notes that the run finishes its images; whether another one did, in another part."""
        if not self.goes_on:
            return False
        places = torch.ones(()) if self.part.open is None else self.part.open.places
        return self.notes.finish(self.begun, places)

    def leave(self, samples: Tensor, chosen: Tensor) -> None:
        """Notes samples in which noise is left, for the run that goes on with them.

        Arguments:
            samples: With shape `(B, *shape)`.
            chosen: The companions that the run chose; empty if it chose none.
        """
        companions = chosen if len(chosen) else self.known
        if companions is None:
            companions = torch.full((len(samples),), UNKNOWN)
        self.notes.keep(self.part.whole(samples), companions, self.estimates)
