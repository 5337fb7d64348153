"""Samples finished earlier, which count as drawn together with the current ones."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Memory", "memory_weights"]

GROUP_SHARE = 0.5  # of P̂ belongs to the samples being drawn, the rest to finished ones
OFFICIAL_LIMIT = 100  # at so many remembered samples the authors' code forgets all but the last


class Memory(NamedTuple):
    """Samples finished earlier that count as drawn together with the current ones.

    Arguments:
        latents: Their x0, with shape `(m, *shape)`, in the space of the samples.
        prompts: Their prompt features, with shape `(m, E)`, or None.
    """

    latents: Tensor
    prompts: Tensor | None = None

    def recalled(self, mode: str) -> "Memory":
        """The part that counts for the next samples: all, but for the forgetful `official` mode."""
        n = len(self.latents)
        if mode != "official" or n < OFFICIAL_LIMIT:
            return self
        kept = (n - OFFICIAL_LIMIT) % (OFFICIAL_LIMIT - 1) + 1  # 1 at the limit, then growing again
        return Memory(*(None if part is None else part[-kept:] for part in self))

    def followed_by(self, other: "Memory") -> "Memory":
        both = None if other.prompts is None else torch.cat([self.prompts, other.prompts])
        return Memory(torch.cat([self.latents, other.latents]), both)


def memory_weights(batch: int, finished: int, mode: str) -> tuple[float, float]:
    """The weight of each sample being drawn and of each finished one in P̂; together they sum to 1.

    The published modes count all samples alike. In `flow` the group being drawn keeps a share of its
    own: once a memory matches the references, a plain average would leave the next group unguided. A
    single image has no neighbours to push it away from the average, so it counts like any other.
    """
    share = batch / (batch + finished)
    if mode == "flow" and batch > 1:
        share = max(share, GROUP_SHARE)
    return share / batch, (1 - share) / finished if finished else 0.0
