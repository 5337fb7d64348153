"""What is drawn and what it is compared with: one case at one seed."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Extras = Callable[[Tensor, Tensor], dict[str, float]]
"""Figures of pictures (B, 3, 64, 64) and of the judge's scores (B, names) that one case adds."""


@dataclass(frozen=True)
class Shown:
    """Real pictures, uint8 (N, 3, 64, 64), with their names and styles."""

    pixels: Tensor
    names: tuple[str, ...]
    styles: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """A hash of the pictures and their names."""
        found = hashlib.sha256(self.pixels.numpy().tobytes())
        found.update(repr(self.names).encode())
        return found.hexdigest()

    def followed_by(self, other: "Shown") -> "Shown":
        """These pictures, then the others."""
        pixels = torch.cat([self.pixels, other.pixels])
        return Shown(pixels, self.names + other.names, self.styles + other.styles)


def no_extras(pictures: Tensor, scores: Tensor) -> dict[str, float]:
    """No figures."""
    return {}


@dataclass(frozen=True)
class Trial:
    """One case at one seed.

    Attributes:
        prompts: One for each image; all "" where the model draws without words.
        styles: The style wanted of each image; all "" where none is.
        given: The set that guidance follows.
        held_out: Real target pictures; where there are prompts, in their order.
        parts: Which part of the set each image belongs to, a number for each prompt.
        given_parts: The part of each picture of the set.
        aware: Whether guidance compares prompts with the names of the set.
    """

    case: str
    seed: int
    prompts: tuple[str, ...]
    styles: tuple[str, ...]
    given: Shown
    held_out: Shown
    cfg: float = 4.0
    parts: tuple[int, ...] = ()
    given_parts: tuple[int, ...] = ()
    aware: bool = False
    extras: Extras = field(default=no_extras, repr=False)

    @property
    def one_prompt(self) -> bool:
        """Whether all images have the same prompt, so that any of them could be chosen."""
        return len(set(self.prompts)) == 1
