"""Small batches: each image follows one reference, its companion.

Few images cannot show how a set is spread. MMD² is then smallest for images between the references:
a batch of 1 becomes the average of the set. So in batches below `FEW` each image has a companion,
one reference that is drawn at random by its weight. The image moves towards its companion with a
small share of the strength. Companions are followed until the model has settled most of the image;
the model draws the rest. The images of many runs are then again distributed like the set. If
finished images are remembered, fewer runs are needed: of several references drawn at random, the
companion is the one near which the finished images are most missing.

A run that starts from pictures, as a hires pass does, shall keep them. So the companion of a
picture is not drawn: it is the reference nearest to it.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..comparison.coupling import Coupling
from ..comparison.posterior import Posterior
from ..kernels.transfers import placed

__all__ = [
    "FEW",
    "MIN_OPEN",
    "STRENGTH_SHARE",
    "Finished",
    "companions",
    "followed",
    "is_open",
    "nearest_companions",
    "some_numbers",
]

FEW = 8  # batches below this size follow companions
STRENGTH_SHARE = 0.02  # share of the strength with which a companion is followed
# Stop following companions once the model has settled more than 60 % of the references' variance.
MIN_OPEN = 0.4
# Smooth or flat sets never reach MIN_OPEN. They are followed until the noise per unit of signal has
# fallen to this share of what it was at first, or of LOUD where it was more.
FIRST_PART, LOUD = 0.4, 15.0
VALUES = 1024  # values of the noise that decide the companion
CANDIDATES = 8  # references drawn at random, one of which becomes the companion
PROBABILITY_MARGIN = 1e-12  # keeps probabilities away from 0 and 1, where the logarithm is infinite
ALLOWED = 1e-3  # the least weight of a companion of a picture, as a share of the largest weight


class Finished(NamedTuple):
    """The similarity of references and finished samples.

    Arguments:
        similar: Kernel values of the references with finished samples, with shape `(N, m)`.
        within: Kernel values between references, with shape `(N, N)`.
        q: Weights of the references, with shape `(N,)`, sum 1.
    """

    similar: Tensor
    within: Tensor
    q: Tensor

    def witness(self, chosen: Tensor) -> Tensor:
        """The witness function at each reference, with shape `(N,)`.

        It is the mean similarity to the finished samples and the `chosen` references, minus that to
        the references. It is low where finished samples are missing.
        """
        total = self.similar.sum(1) + self.within[:, chosen].sum(1)
        return total / (self.similar.shape[1] + len(chosen)) - self.within @ self.q


def some_numbers(samples: Tensor) -> Tensor:
    """Some numbers of each sample, evenly spaced, with shape `(B, V)` and V at most 2 · `VALUES`.

    Arguments:
        samples: With shape `(B, *)`.
    """
    rows = samples.flatten(1)
    return rows[:, :: max(rows.shape[1] // VALUES, 1)]


def is_open(posterior: Posterior, sigma: float, first: float | None) -> bool:
    """Whether companions are followed at σ.

    Arguments:
        posterior: What the model has not settled.
        sigma: The noise level of the call.
        first: The noise level at which the run begins; None if it goes on where another ended.
    """
    level = posterior.noise.level
    if posterior.open(sigma) >= MIN_OPEN:
        return True
    loudest = LOUD if first is None else level(first)
    share = posterior.bound(loudest) / (posterior.bound(math.inf) or 1.0)
    return share < MIN_OPEN and level(sigma) >= FIRST_PART * min(loudest, LOUD)


def companions(noise: Tensor, weights: Tensor, finished: Finished | None = None) -> Tensor:
    """The index of the companion of each sample, with shape `(B,)`.

    Companions differ from each other if there are enough references. They are drawn by the noise of
    the samples, so that equal seeds give equal companions on every device: a GPU computes in single
    precision, because it may lack double, and the host does not wait for it.

    Arguments:
        noise: The noise of the samples, standard normal, with shape `(B, *)`.
        weights: The weight of each reference for each sample, with shape `(B, N)`, not negative.
        finished: The samples finished earlier, or None.
    """
    dtype = torch.float64 if noise.device.type == "cpu" else torch.float32
    rows, n = some_numbers(noise).to(dtype), weights.shape[1]
    signs = torch.randint(0, 2, (n, rows.shape[1]), generator=torch.Generator().manual_seed(0))
    signs = 2.0 * placed(signs.to(torch.int8), rows) - 1
    z = rows @ signs.T / math.sqrt(rows.shape[1])  # nearly independent normals
    # Gumbel-max: the index of the largest log q_j + g_j is a draw by the weights q, and the indices
    # of the k largest are k draws without replacement. With 1 − u, because u is nearly 1 where
    # scores are large.
    above = torch.special.ndtr(-z).clamp(PROBABILITY_MARGIN, 1 - torch.finfo(dtype).eps)
    scores = weights.to(dtype).log() - (-torch.log1p(-above)).log()
    chosen = torch.empty(0, dtype=torch.long, device=noise.device)
    for row in scores:
        rest = row.index_fill(0, chosen[-(n - 1) :] if n > 1 else chosen[:0], -math.inf)
        rest = torch.where(rest.max() > -math.inf, rest, row)
        best = rest.argmax(0, keepdim=True)
        if finished is not None:
            score, best = rest.topk(min(CANDIDATES, n))
            missing = finished.witness(chosen)[best].where(score > -math.inf, math.inf)
            best = best.gather(0, missing.argmin(0, keepdim=True))
        chosen = torch.cat([chosen, best])
    return chosen


def nearest_companions(distances: Tensor, weights: Tensor) -> Tensor:
    """The index of the reference nearest to each picture, with shape `(B,)`.

    Companions differ from each other if there are enough references; of several pictures, the one
    that is nearest to a reference has it.

    Arguments:
        distances: The distances between pictures and references, with shape `(B, N)`.
        weights: As in `companions`. References with hardly any weight are nobody's companion.
    """
    weights = weights.nan_to_num()
    allowed = weights >= ALLOWED * weights.amax(1, keepdim=True)  # at least one in each row
    far = distances.nan_to_num().masked_fill(~allowed, math.inf)
    free, n = far.clone(), far.shape[1]
    chosen = torch.zeros(len(far), dtype=torch.long, device=far.device)
    waiting = torch.ones_like(chosen, dtype=torch.bool)
    for _ in range(len(far)):
        open_rows = free.where(waiting[:, None], math.inf)
        # Where all are taken, each may be taken once more.
        free = torch.where(open_rows.isfinite().any(), free, far)
        place = free.where(waiting[:, None], math.inf).argmin().reshape(1)
        row, j = torch.div(place, n, rounding_mode="floor"), place % n
        chosen.scatter_(0, row, j)
        waiting.index_fill_(0, row, False)
        free = free.index_fill(1, j, math.inf)
    return chosen


def followed(coupling: Coupling, chosen: Tensor, weights: Tensor) -> Coupling:
    """A coupling in which each sample is a batch of one, compared with its companion alone.

    Arguments:
        coupling: The coupling of the batch.
        chosen: The index of the companion of each sample, with shape `(B,)`.
        weights: The weights of the references, with shape `(N,)`.
    """
    batch, like = len(coupling.p), {"dtype": coupling.p.dtype, "device": coupling.p.device}
    alone = torch.eye(batch, **like) / coupling.p
    only = torch.zeros(batch, len(coupling.s), **like)
    only[torch.arange(batch, device=chosen.device), chosen] = 1 / weights[chosen]
    return Coupling(coupling.p, coupling.s, alone, only, coupling.zz)
