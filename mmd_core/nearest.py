"""The nearest reference of a sample: whether it is a picture of its own, or nearly a copy.

Distances are told relative to the spacing of the references, the median distance between one and the
nearest other one: a fresh picture of the same kind is about 1 from its nearest reference, a copy 0.
"""

import math

import torch
from torch import Tensor

__all__ = ["nearest_rows", "relative_distances", "spacing"]

PROBES = 512  # references whose nearest other one is looked for
CHUNK = 2048  # rows compared with at a time


def nearest_rows(x: Tensor, y: Tensor, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Which row of `y` is nearest to each row of `x`, and how far, both with shape `(n,)`.

    Arguments:
        x: With shape `(n, D)`, fp32 or better.
        y: With shape `(N, D)`, any dtype and device; converted piece by piece.
        skip: One row of `y` for each of `x` that does not count, with shape `(n,)`.
    """
    best = x.new_full((len(x),), math.inf)
    index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    centre = y[:CHUNK].to(x).mean(0)  # fewer digits are lost nearer to the origin
    x = x - centre
    for first in range(0, len(y), CHUNK):
        rows = y[first : first + CHUNK].to(x) - centre
        distances = torch.cdist(x, rows, compute_mode="use_mm_for_euclid_dist")
        if skip is not None:
            mine = (skip >= first) & (skip < first + len(rows))
            distances[mine, skip[mine] - first] = math.inf
        found, at = distances.min(1)
        nearer = found < best
        best = torch.where(nearer, found, best)
        index = torch.where(nearer, first + at, index)
    return index, best


def spacing(y: Tensor) -> float:
    """The median distance between a row of `y` and the nearest other one that differs; NaN if none does.

    Arguments:
        y: References, with shape `(N, D)`. Of many, some are looked at.
    """
    probes = torch.arange(0, len(y), -(-len(y) // PROBES))
    rows = y[probes].to(_precise(y))
    _, distances = nearest_rows(rows, y, probes.to(y.device))
    tiny = 1e-3 * rows.std(0).norm() if len(rows) > 1 else math.inf  # equal but for rounding
    apart = distances[(distances > tiny) & distances.isfinite()]
    return apart.median().item() if len(apart) else math.nan


def relative_distances(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of `y` for each row of `x`, and its distance by the spacing of `y`, with shape `(n,)`."""
    index, distances = nearest_rows(x.to(_precise(x)), y)
    return index, distances / spacing(y)


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
