"""Merges reference sets to one set: the mixture of their distributions."""

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor

from .references import References

__all__ = ["merge"]

Allocate = Callable[[tuple[int, ...]], Tensor]


def merge(
    sets: Sequence[References],
    shares: Sequence[float],
    labels: Sequence[str] | None = None,
    allocate: Allocate = torch.empty,
) -> References:
    """The mixture Σ_k s_k P_k of the distributions P_k of several reference sets.

    The shares s_k are normalized to sum 1. Within a set, weights keep their proportions. Sets with
    share 0 are left out. Prompt features, thumbnails, VAE and size are kept only if they are known
    for all sets and fit together.

    Arguments:
        sets: One or more, with latents of one shape.
        shares: The share of each set, not negative.
        labels: A name for each set, for errors. If reference names would occur twice, the label of
            their set is put before them. By default "a", "b" and so on.
        allocate: Makes an uninitialized float32 tensor of the given shape for the merged rows.

    Raises:
        ValueError: A share is negative or not finite, all shares are 0, or the latents have
            different shapes.
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
                f"the latents of {labels[0]} have the shape {want}, those of {label} {have}: "
                "encode both sets with the same VAE at the same size, or set one share to 0"
            )
    if len(sets) == 1:
        return first
    names = [part.names for part in sets]
    if len(set(chain(*names))) < sum(map(len, names)):
        names = [
            [f"{label}: {name}" for name in some] for label, some in zip(labels, names, strict=True)
        ]
    total = sum(shares)
    weights = [
        part.weights.double() * share / total for part, share in zip(sets, shares, strict=True)
    ]
    return References(
        latents=_joined([part.latents for part in sets], allocate),
        weights=torch.cat(weights),
        prompts=_joined_if_alike([part.prompts for part in sets], allocate),
        names=tuple(chain(*names)),
        captions=tuple(chain(*(part.captions for part in sets))),
        thumbnails=_joined_if_alike([part.thumbnails for part in sets], allocate),
        vae=first.vae if all(part.vae == first.vae for part in sets) else "",
        sizes=tuple(chain(*(part.sizes for part in sets))),
        size=first.size if all(part.size == first.size for part in sets) else (0, 0),
    )


def _joined(tensors: list[Tensor], allocate: Allocate) -> Tensor:
    """All rows in one tensor. In contrast to `torch.cat`, it may be memory-mapped."""
    whole = allocate((sum(map(len, tensors)), *tensors[0].shape[1:]))
    for place, tensor in zip(whole.split(list(map(len, tensors))), tensors, strict=True):
        place.copy_(tensor)
    return whole


def _joined_if_alike(tensors: list[Tensor | None], allocate: Allocate) -> Tensor | None:
    """All rows in one tensor; None if a tensor is missing or their rows differ in shape."""
    if any(tensor is None or tensor.shape[1:] != tensors[0].shape[1:] for tensor in tensors):
        return None
    return _joined(tensors, allocate)
