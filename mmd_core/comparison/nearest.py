"""The nearest reference of a sample, which shows whether the sample is nearly a copy.

Distances are relative to the spacing of the references, which is the median distance between a
reference and its nearest other reference. The distance of a new image of the same kind to its
nearest reference is about 1, and the distance of a copy is 0.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..kernels.kernels import Gram
from ..kernels.transfers import placed
from .rows import Rows

__all__ = ["nearest_rows", "relative_distances", "spacing", "spacing_in"]

PROBES = 512  # most references whose nearest other reference is searched for the spacing
CHUNK = 2048  # rows of `y` that are compared at once


def nearest_rows(x: Tensor, y: Tensor | Rows, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The index of the row of `y` nearest to each row of `x`, and its distance, each `(n,)`.

    Arguments:
        x: Rows with shape `(n, D)`, fp32 or better. If `y` is `Rows`, its centre is already
            subtracted from `x`.
        y: N rows. A tensor has the shape `(N, D)`, and may have any dtype and device; it is
            converted piece by piece.
        skip: For each row of `x` the index of one row of `y` that is ignored, with shape `(n,)`.
    """
    best = x.new_full((len(x),), math.inf)
    index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    if not isinstance(y, Rows):
        centre = y[:CHUNK].to(x).mean(0)  # rounding errors are smaller near the origin
        x = x - centre
    for which, rows in y.pieces() if isinstance(y, Rows) else _centred_pieces(y, centre):
        distances = torch.cdist(x, rows, compute_mode="use_mm_for_euclid_dist")
        if skip is not None:
            columns = torch.arange(which.start, which.stop, device=x.device)
            distances.masked_fill_(columns == skip[:, None], math.inf)
        found, at = distances.min(1)
        nearer = found < best
        best = torch.where(nearer, found, best)
        index = torch.where(nearer, which.start + at, index)
    return index, best


def _centred_pieces(y: Tensor, centre: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """As `Rows.pieces`, for a tensor of rows from which `centre` is subtracted."""
    for first in range(0, len(y), CHUNK):
        rows = y[first : first + CHUNK].to(centre)
        yield slice(first, first + len(rows)), rows - centre


def spacing(y: Tensor | Rows) -> Tensor:
    """The median distance between a row of `y` and its nearest other row; NaN if all are equal.

    It is a scalar. Distances of 0, up to rounding, are left out.

    Arguments:
        y: N references. Above 512 references, the median is over evenly spaced ones.
    """
    probes = _probes(len(y))
    rows = y.of(probes) if isinstance(y, Rows) else y[probes].to(_precise(y))
    _, distances = nearest_rows(rows, y, placed(probes, rows, probes.dtype))
    return _median(distances, rows.std(0, correction=0).norm())


def spacing_in(gram: Tensor) -> Tensor:
    """`spacing` from inner products.

    Arguments:
        gram: Inner products of the references minus their mean, with shape `(N, N)`.
    """
    probes, squares = _probes(len(gram)), gram.diagonal()
    probes = placed(probes, gram, probes.dtype)
    d2 = Gram(gram[probes], squares[probes], squares).sq_dist()
    d2[torch.arange(len(probes), device=d2.device), probes] = math.inf
    return _median(d2.amin(1).sqrt(), squares.mean().sqrt())


def _probes(n: int) -> Tensor:
    """The indices of at most `PROBES` evenly spaced rows of n."""
    return torch.arange(0, n, -(-n // PROBES))


def _median(distances: Tensor, spread: Tensor) -> Tensor:
    """The median of the distances that are above rounding error; NaN if there is none.

    Arguments:
        spread: The typical distance of a row to the mean of the rows.
    """
    apart = (distances > 1e-3 * spread) & distances.isfinite()
    ordered = distances.where(apart, math.inf).sort().values
    middle = ordered.gather(0, (apart.sum(0, keepdim=True) - 1).clamp_min(0) // 2)[0]
    return middle.where(apart.any(), math.nan)


def relative_distances(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest row of `y` for each row of `x`, and its distance divided by the spacing of `y`.

    Arguments:
        x: Rows with shape `(n, D)`.
        y: Rows with shape `(N, D)`.

    Returns:
        The indices and the distances, both with shape `(n,)`.
    """
    index, distances = nearest_rows(x.to(_precise(x)), y)
    return index, distances / spacing(y)


def _precise(x: Tensor) -> torch.dtype:
    """The dtype of `x`, but at least fp32."""
    return torch.promote_types(x.dtype, torch.float32)
