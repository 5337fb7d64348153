"""Which prompt each sample of a batch gets."""

import torch
from torch import Tensor

__all__ = ["balanced_choice"]


def balanced_choice(chances: Tensor, count: int, random: torch.Generator) -> list[int]:
    """`count` prompt indices with frequencies close to `chances`.

    This is systematic sampling, in random order.

    Arguments:
        chances: The probability of each prompt, with shape `(P,)`.
        count: The number of samples.
        random: The generator.
    """
    edges = chances.double().cumsum(0)
    places = (torch.arange(count) + torch.rand((), generator=random).double()) / count * edges[-1]
    chosen = torch.searchsorted(edges, places.double(), right=True).clamp_max(len(chances) - 1)
    return chosen[torch.randperm(count, generator=random)].tolist()
