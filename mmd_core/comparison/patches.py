"""Patches of images: which patches cover an image, how to cut them out and how to put them back."""

import math

import torch
from torch import Tensor

from .latents import Latents

__all__ = ["patch_rows", "tile", "tiling", "untile"]

CHOSEN = 64  # images from which patches are taken at once


def tiling(
    lengths: tuple[int, ...], size: tuple[int, ...], offset: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The T patches of one tiling, which cover an image.

    Regular patches lie side by side from `offset` on. At the ends of each axis, further patches
    cover the rest, and overlap the regular ones. The regular patches of all offsets together are
    all patches of the image, each of them once.

    Arguments:
        lengths: The side lengths of the image, one for each spatial axis.
        size: The side lengths of a patch.
        offset: Where the first regular patch begins on each axis.

    Returns:
        The places of the patches, as indices into the flattened image, with shape `(T, patch)`, and
        which patches are regular, with shape `(T,)`. `patch` is the number of places of a patch.
    """
    places, regular = (
        torch.arange(math.prod(lengths)).view(lengths),
        torch.ones(1, dtype=torch.bool),
    )
    for axis, (n, p, first) in enumerate(zip(lengths, size, offset, strict=True)):
        inner = range(first, n - p + 1, p)
        starts = sorted({0, n - p, *inner})
        places = places.unfold(axis, p, 1).index_select(axis, torch.tensor(starts))
        own = torch.tensor([start in inner for start in starts])
        regular = (regular[:, None] & own).flatten()
    return places.reshape(-1, math.prod(size)), regular


def tile(x: Tensor, places: Tensor) -> Tensor:
    """The patches at `places` of images `(B, C, *)`, with shape `(B, T, C · patch)`."""
    return x.flatten(2)[:, :, places].transpose(1, 2).flatten(2)


def untile(tiles: Tensor, shape: tuple[int, ...], places: Tensor) -> Tensor:
    """The transpose of `tile`: images of `shape`, in which overlapping patches are added.

    Arguments:
        tiles: The patches, with shape `(B, T, C · patch)`.
        shape: The shape of the batch, `(B, C, *)`.
        places: As `tiling` returns them.
    """
    # The sums are gathered, because scattered sums on a GPU are not reproducible.
    sorted_places, order = places.flatten().sort(stable=True)
    counts = sorted_places.bincount(minlength=math.prod(shape[2:]))
    rank = (
        torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[sorted_places]
    )
    sources = order.new_full((len(counts), int(counts.max())), len(order))
    sources[sorted_places, rank] = order
    parts = tiles.unflatten(2, (shape[1], -1)).transpose(1, 2).flatten(2)  # (B, C, T · patch)
    parts = torch.nn.functional.pad(parts, (0, 1))
    return parts[:, :, sources].sum(3).reshape(len(tiles), *shape[1:])


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
    rng, device = torch.Generator().manual_seed(seed), images.weights.device
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
        rows[mine.to(device)] = windows[tuple(i.to(device) for i in index)].flatten(1)
    return rows, owners.to(device)
