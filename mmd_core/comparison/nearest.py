"""The nearest reference of a sample: whether it is a picture of its own, or nearly a copy.

Distances are told relative to the spacing of the references, the median distance between one and the
nearest other one: a fresh picture of the same kind is about 1 from its nearest reference, a copy 0.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..kernels.kernels import Gram
from .rows import Rows

__all__ = ["nearest_rows", "relative_distances", "spacing", "spacing_in"]

PROBES = 512  # references whose nearest other one is looked for
CHUNK = 2048  # rows compared with at a time


def nearest_rows(x: Tensor, y: Tensor | Rows, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Which row of `y` is nearest to each row of `x`, and how far, both with shape `(n,)`.

    Arguments:
        x: With shape `(n, D)`, fp32 or better; about the centre of `y` if these are `Rows`.
        y: N of them; a tensor may have any dtype and device, and is converted piece by piece.
        skip: One row of `y` for each of `x` that does not count, with shape `(n,)`.
    """
    best = x.new_full((len(x),), math.inf)
    index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    if not isinstance(y, Rows):
        centre = y[:CHUNK].to(x).mean(0)  # fewer digits are lost nearer to the origin
        x = x - centre
    for which, rows in y.pieces() if isinstance(y, Rows) else _centred_pieces(y, centre):
        distances = torch.cdist(x, rows, compute_mode="use_mm_for_euclid_dist")
        if skip is not None:
            mine = (skip >= which.start) & (skip < which.stop)
            distances[mine, skip[mine] - which.start] = math.inf
        found, at = distances.min(1)
        nearer = found < best
        best = torch.where(nearer, found, best)
        index = torch.where(nearer, which.start + at, index)
    return index, best


def _centred_pieces(y: Tensor, centre: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for first in range(0, len(y), CHUNK):
        rows = y[first : first + CHUNK].to(centre)
        yield slice(first, first + len(rows)), rows - centre


def spacing(y: Tensor | Rows) -> float:
    """The median distance between a row of `y` and the nearest other one that differs; NaN if none does.

    Arguments:
        y: References, N of them. Of many, some are looked at.
    """
    probes = _probes(len(y))
    rows = y.of(probes) if isinstance(y, Rows) else y[probes].to(_precise(y))
    _, distances = nearest_rows(rows, y, probes.to(rows.device))
    return _median(distances, rows.std(0, correction=0).norm())


def spacing_in(gram: Tensor) -> float:
    """The same from the inner products of the references about their mean, with shape `(N, N)`."""
    probes, squares = _probes(len(gram)).to(gram.device), gram.diagonal()
    d2 = Gram(gram[probes], squares[probes], squares).sq_dist()
    d2[torch.arange(len(probes), device=d2.device), probes] = math.inf
    return _median(d2.amin(1).sqrt(), squares.mean().sqrt())


def _probes(n: int) -> Tensor:
    return torch.arange(0, n, -(-n // PROBES))


def _median(distances: Tensor, spread: Tensor) -> float:
    """Of those that are more than rounding, for rows that are `spread` from their mean."""
    apart = distances[(distances > 1e-3 * spread) & distances.isfinite()]
    return apart.median().item() if len(apart) else math.nan


def relative_distances(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of `y` for each row of `x`, and its distance by the spacing of `y`, with shape `(n,)`."""
    index, distances = nearest_rows(x.to(_precise(x)), y)
    return index, distances / spacing(y)


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
