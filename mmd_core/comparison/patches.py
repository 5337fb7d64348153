"""Patches of images: which ones cover an image, cutting them out, and putting them back."""

import math

import torch
from torch import Tensor

from .latents import Latents

__all__ = ["patch_rows", "tile", "tiling", "untile"]

CHOSEN = 64  # images at once that patches are taken of


def tiling(
    lengths: tuple[int, ...], size: tuple[int, ...], offset: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The patches that cover an image: their places `(T, patch)` in it, flattened, and which are regular `(T,)`.

    Regular ones lie side by side from `offset` on; at the ends of each axis others overlap them.
    All regular ones of all offsets are each patch of the image once.
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
    """The transpose of `tile`: images of `shape` in which patches that overlap are added."""
    # Gathered, since on a GPU scattered sums come out differently each time.
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
    """Patches of images `(N, C, *)`, chosen by the seed: rows `(count, C · patch)`, and whose they are `(count,)`.

    Arguments:
        images: An image is chosen as often as it weighs.
        size: Of a patch, along each axis.
    """
    rng, device = torch.Generator().manual_seed(seed), images.weights.device
    weights = images.weights.double().cpu()
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
