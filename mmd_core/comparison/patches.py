"""Random patches of images."""

import math

import torch
from torch import Tensor

from ..kernels.transfers import placed
from .latents import Latents

__all__ = ["patch_rows"]

CHOSEN = 64  # images from which patches are taken at once


def patch_rows(
    images: Latents, size: tuple[int, ...], count: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Random patches of images.

    Arguments:
        images: Latents with shape `(N, C, *)`. The chance of an image is its weight.
        size: The side lengths of a patch, one for each spatial axis.
        count: The number of patches.
        seed: The seed of the random choice.

    Returns:
        The patches as rows, with shape `(count, C · patch)`, and the index of the image from which
        each is taken, with shape `(count,)`.
    """
    rng = torch.Generator().manual_seed(seed)
    weights = images.weights.cpu().double()  # a GPU may lack float64
    owners = torch.multinomial(weights, count, replacement=True, generator=rng)
    places = [
        torch.randint(0, n - p + 1, (count,), generator=rng)
        for n, p in zip(images.shape[1:], size, strict=True)
    ]
    rows = images.weights.new_empty(count, images.shape[0] * math.prod(size))
    for some in owners.unique().split(CHOSEN):
        windows = images.of(some)
        for axis, p in enumerate(size, 2):
            windows = windows.unfold(axis, p, 1)
        windows = windows.movedim(1, len(images.shape))
        mine = torch.isin(owners, some)
        index = torch.searchsorted(some, owners[mine]), *(place[mine] for place in places)
        here = torch.stack([mine.nonzero().flatten(), *index])
        where, *index = placed(here, rows, here.dtype)
        rows[where] = windows[tuple(index)].flatten(1)
    return rows, placed(owners, rows, owners.dtype)
