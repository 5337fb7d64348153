"""Tilings: which patches cover an image, how to cut them out and how to put them back."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..kernels.transfers import placed

__all__ = ["Cover", "covers", "tile", "tiling"]


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


@dataclass(frozen=True, eq=False)
class Cover:
    """The T patches of one or several tilings, which cover an image of P places.

    All that the host has to know is known before images are on their way: then a GPU that draws
    never waits for it.

    Arguments:
        places: Indices into the flattened image, with shape `(T, patch)`.
        regular: Which patches are regular, with shape `(T,)`, on the CPU.
        sources: The numbers of patches that lie at each place of the image, as indices into the
            flattened patches; T · patch for none. With shape `(P, most)`.
        tilings: The number of tilings.
    """

    places: Tensor
    regular: Tensor
    sources: Tensor
    tilings: int = 1
    _landmarks: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, places: Tensor, regular: Tensor, lengths: Sequence[int]) -> "Cover":
        """The cover of one tiling, as `tiling` returns it, of images with these side lengths."""
        sorted_places, order = places.flatten().sort(stable=True)
        counts = sorted_places.bincount(minlength=math.prod(lengths))
        rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[sorted_places]
        sources = order.new_full((len(counts), int(counts.max())), len(order))
        sources[sorted_places, rank] = order
        return cls(places, regular, sources)

    def on(self, like: Tensor) -> "Cover":
        """The same, for images on the device of `like`."""
        places, sources = (placed(each, like, each.dtype) for each in (self.places, self.sources))
        return Cover(places, self.regular, sources, self.tilings)

    @classmethod
    def together(cls, parts: Sequence["Cover"]) -> "Cover":
        """All patches of several covers."""
        count, before, sources = sum(part.places.numel() for part in parts), 0, []
        for part in parts:
            numbers = part.places.numel()
            none = part.sources == numbers
            sources.append((part.sources + before).masked_fill(none, count))
            before += numbers
        return cls(
            torch.cat([part.places for part in parts]),
            torch.cat([part.regular for part in parts]),
            torch.cat(sources, 1),
            sum(part.tilings for part in parts),
        )

    @cached_property
    def _covered(self) -> Tensor:
        """How many patches lie at each place, with shape `(P,)`."""
        return (self.sources < self.places.numel()).sum(1)

    def cut(self, x: Tensor) -> Tensor:
        """The patches of images `(B, C, *)`, with shape `(B, T, C · patch)`."""
        return tile(x, self.places)

    def laid(self, tiles: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The transpose of `cut`: images of `shape`, in which overlapping patches are added.

        Arguments:
            tiles: The patches, with shape `(B, T, C · patch)`.
            shape: The shape of the batch, `(B, C, *)`.
        """
        # The sums are gathered, because scattered sums on a GPU are not reproducible.
        parts = tiles.unflatten(2, (shape[1], -1)).transpose(1, 2).flatten(2)  # (B, C, T · patch)
        return pad(parts, (0, 1))[:, :, self.sources].sum(3).reshape(shape)

    def spread(self, tiles: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Images of `shape` with the mean of the patches at each place; arguments as in `laid`."""
        return self.laid(tiles, shape) / self._covered.view(shape[2:])

    def landmarks(self, batch: int, most: int) -> Tensor:
        """At most `most` regular patches of a batch, evenly spaced, as indices into all B · T."""
        if (batch, most) not in self._landmarks:
            regular = self.regular.nonzero().flatten()
            candidates = batch * len(regular)
            m = min(candidates, most)
            step = (torch.arange(m, dtype=torch.float64) * (candidates / m)).long()
            chosen = step // len(regular) * len(self.regular) + regular[step % len(regular)]
            self._landmarks[batch, most] = placed(chosen, self.places)
        return self._landmarks[batch, most]


def covers(lengths: tuple[int, ...], size: tuple[int, ...], like: Tensor) -> list[Cover]:
    """The covers of all tilings of images with these side lengths.

    Arguments:
        lengths: The side lengths of the images, one for each spatial axis.
        size: The side lengths of a patch.
        like: A tensor on the device of the images.
    """
    offsets = itertools.product(
        *(range(min(p, n - p + 1)) for p, n in zip(size, lengths, strict=True))
    )
    return [Cover.of(*tiling(lengths, size, offset), lengths).on(like) for offset in offsets]
