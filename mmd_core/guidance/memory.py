"""Samples finished earlier that count as drawn together with the current ones."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Memory"]


class Memory(NamedTuple):
    """Samples finished earlier that count as drawn together with the current ones.

    Arguments:
        latents: Their x0, with shape `(m, *shape)`, in the space of the samples.
        prompts: Their prompt features, with shape `(m, E)`, or None.
    """

    latents: Tensor
    prompts: Tensor | None = None

    def last(self, n: int) -> "Memory":
        """The last `n` samples, at least one."""
        return Memory(*(None if part is None else part[-n:] for part in self))

    def followed_by(self, other: "Memory") -> "Memory":
        """These samples and then those of `other`."""
        both = None if other.prompts is None else torch.cat([self.prompts, other.prompts])
        return Memory(torch.cat([self.latents, other.latents]), both)
