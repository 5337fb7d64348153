"""Several reference sets as one: the mixture of their distributions."""

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor

from .references import References

__all__ = ["merge"]


def merge(
    sets: Sequence[References],
    shares: Sequence[float],
    labels: Sequence[str] | None = None,
    allocate: Callable[[tuple[int, ...]], Tensor] = torch.empty,
) -> References:
    """The references of all sets, each of which counts by its share as a whole.

    The measure is Σ_k s_k P_k with shares s_k, normalised to sum 1, of the sets P_k: weights inside a set
    keep their proportions. Sets of share 0 are left out. What not all sets have or agree on is unknown of
    the merged one: prompt features, thumbnails, VAE, size.

    Arguments:
        sets: One or more, with latents of one shape.
        shares: How much each set counts, not negative, whatever their sum.
        labels: What to call the sets; put before the names of references if these would repeat.
        allocate: Makes the tensors that rows are put together in, of the shape it is given.

    Raises:
        ValueError: Shares that are negative, not finite or all 0, or latents of different shapes.
    """
    labels = labels or [chr(ord("a") + k) for k in range(len(sets))]
    for label, share in zip(labels, shares, strict=True):
        if not 0 <= share < float("inf"):
            raise ValueError(f"share_{label} must be 0 or a positive number, not {share}")
    kept = [part for part in zip(sets, shares, labels, strict=True) if part[1] > 0]
    if not kept:
        raise ValueError("all shares are 0: give at least one set a share above 0")
    sets, shares, labels = zip(*kept, strict=True)
    first = sets[0]
    for part, label in zip(sets, labels, strict=True):
        have, want = tuple(part.latents.shape[1:]), tuple(first.latents.shape[1:])
        if have != want:
            raise ValueError(
                f"the latents of {labels[0]} have the shape {want}, those of {label} {have}: encode "
                "both sets with the same VAE at the same size, or set one of their shares to 0"
            )
    if len(sets) == 1:
        return first
    names = [part.names for part in sets]
    if len(set(chain(*names))) < sum(map(len, names)):
        names = [
            [f"{label}: {name}" for name in some] for label, some in zip(labels, names, strict=True)
        ]
    total = sum(shares)
    return References(
        _joined([part.latents for part in sets], allocate),
        torch.cat(
            [
                part.weights.double() * share / total
                for part, share in zip(sets, shares, strict=True)
            ]
        ),
        _if_alike([part.prompts for part in sets], allocate),
        tuple(chain(*names)),
        tuple(chain(*(part.captions for part in sets))),
        _if_alike([part.thumbnails for part in sets], allocate),
        first.vae if all(part.vae == first.vae for part in sets) else "",
        tuple(chain(*(part.sizes for part in sets))),
        first.size if all(part.size == first.size for part in sets) else (0, 0),
    )


def _joined(tensors: list[Tensor], allocate: Callable) -> Tensor:
    """All rows in one tensor, copied straight to where they stay."""
    whole = allocate((sum(map(len, tensors)), *tensors[0].shape[1:]))
    for place, tensor in zip(whole.split(list(map(len, tensors))), tensors, strict=True):
        place.copy_(tensor)
    return whole


def _if_alike(tensors: list[Tensor | None], allocate: Callable) -> Tensor | None:
    """All rows in one tensor, if every set has some and they have one shape."""
    if any(tensor is None or tensor.shape[1:] != tensors[0].shape[1:] for tensor in tensors):
        return None
    return _joined(tensors, allocate)
