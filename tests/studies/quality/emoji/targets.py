"""What sets may have in common besides a style: a palette, and proportions of kinds."""

from collections.abc import Sequence

import numpy as np
import torch
from mmd_tests.studies.quality.emoji.trial import Extras
from mmd_tests.studies.quality.metrics import total_variation
from torch import Tensor

COLOURED = 0.7
HUES = (190.0, 310.0)  # degrees: from sky blue to purple
GREY = 0.3
FAINT = 0.05
DOGS = {"dog", "poodle"}


def palette(pictures: Tensor) -> Tensor:
    """The share (B,) of the colour of pictures (B, 3, H, W) in -1 to 1 that is blue or violet.

    A pixel counts by how much the difference of its largest and smallest channel exceeds GREY;
    pictures almost without colour have a share of 0.
    """
    red, green, blue = pictures.unbind(1)
    # The angle of the colour seen along the grey axis.
    hue = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue).rad2deg() % 360
    colour = (pictures.amax(1) - pictures.amin(1) - GREY).clamp_min(0)
    inside = (hue >= HUES[0]) & (hue <= HUES[1])
    total = colour.mean((1, 2))
    return torch.where(total > FAINT, (colour * inside).mean((1, 2)) / total.clamp_min(FAINT), 0)


def kinds_of(names: Sequence[str]) -> np.ndarray:
    """0 for each name of a cat, 1 for a dog, 2 for all others."""
    kinds = []
    for name in names:
        words = set(name.split())
        dog = bool(DOGS & words) and "hot" not in words
        kinds.append(0 if "cat" in words else 1 if dog else 2)
    return np.array(kinds)


def proportions(names: tuple[str, ...], truth: tuple[float, float, float]) -> Extras:
    """How the shares of cats, dogs and others compare with the truth, by the judge's best name."""
    kinds = torch.from_numpy(kinds_of(names))

    def extras(pictures: Tensor, scores: Tensor) -> dict[str, float]:
        found = kinds[scores.argmax(1)].bincount(minlength=3) / len(scores)
        return {
            "cats": found[0].item(),
            "dogs": found[1].item(),
            "TV": total_variation(found.numpy(), truth),
        }

    return extras
