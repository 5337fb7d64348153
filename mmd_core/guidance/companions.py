"""Few images at once: each follows a reference of its own.

A handful of images cannot show how a set is spread. The measure of MMD is then met best by images
between the references, and everything that makes an image itself is pulled out of it: a batch of 1
becomes the average of the set. So below `FEW` images each gets a companion, one reference drawn at
random by its weight, and goes towards it gently, and only while the model has much of the picture still
to settle; the model draws the rest. Each image thus follows the gradient of MMD² between itself and a
random part of the set, and what is drawn over many runs is again distributed like the set; where finished images are
remembered, faster than by chance: of some references drawn at random an image gets the one that they lack most.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["FEW", "GENTLY", "OPEN", "Finished", "companions"]

FEW = 8
GENTLY = 0.02  # of the strength
OPEN = 0.4  # of the references' variance: companions count while more than this is open
PLACES = 1024  # of the noise that are looked at
CANDIDATES = 8  # of which the one is taken that finished samples lack most


class Finished(NamedTuple):
    """How like finished samples the references are.

    Arguments:
        similar: Kernel values of the references with finished samples, with shape `(N, m)`.
        within: Kernel values between references, with shape `(N, N)`.
        q: Weights of the references, with shape `(N,)`, sum 1.
    """

    similar: Tensor
    within: Tensor
    q: Tensor

    def witness(self, chosen: list[int]) -> Tensor:
        """By how much finished and `chosen` ones exceed the references where each of these lies, with shape `(N,)`."""
        total = self.similar.sum(1) + self.within[:, chosen].sum(1)
        witness = total / (self.similar.shape[1] + len(chosen)) - self.within @ self.q
        return witness.cpu()


def companions(noise: Tensor, weights: Tensor, finished: Finished | None = None) -> Tensor:
    """The index of a reference for each sample, with shape `(B,)`; different ones as far as there are.

    Drawn by the samples' own noise, so that a seed decides it, on every device alike.

    Arguments:
        noise: The noise of the samples, standard normal, with shape `(B, *)`.
        weights: The weight of each reference for each sample, with shape `(B, N)`, not negative.
        finished: The finished samples that these follow.
    """
    rows, n = noise.flatten(1).cpu().double(), weights.shape[1]
    rows = rows[:, :: max(rows.shape[1] // PLACES, 1)]
    signs = torch.randint(0, 2, (n, rows.shape[1]), generator=torch.Generator().manual_seed(0))
    z = rows @ (2.0 * signs.double() - 1).T / math.sqrt(rows.shape[1])  # nearly independent normals
    # Gumbel-max: the largest of log q_j + g_j is a draw by the weights q, the k largest k draws without
    # replacement.
    u = torch.special.ndtr(z).clamp(1e-12, 1 - 1e-12)
    scores = weights.cpu().double().log() - (-u.log()).log()
    chosen = []
    for row in scores:
        rest = row.clone()
        rest[chosen[-(n - 1) :] if n > 1 else []] = -math.inf
        rest = rest if rest.max() > -math.inf else row
        if finished is None:
            chosen.append(int(rest.argmax()))
        else:
            best = rest.topk(min(CANDIDATES, int(rest.isfinite().sum()))).indices
            chosen.append(int(best[finished.witness(chosen)[best].argmin()]))
    return torch.tensor(chosen, device=noise.device)
