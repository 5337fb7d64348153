"""What the denoised estimate lacks: the spread of the clean latents that a noisy one may come from.

x̂0 at noise σ is a posterior mean, E[x0 | x]: blurred, and closer to its neighbours than clean latents are
to theirs. A kernel that compares it with clean references takes that for a batch too similar to
itself, and MMD pushes it apart, beyond its place. Like is compared with like if every x̂0 stands for a
sample of its posterior, x̂0 + ε: when the batch is distributed like the references, so are these. ε is
almost orthogonal to all else (D is large) and has the squared norm E = tr Cov(x0 | x), so that

    ‖x̂0 + ε − y‖² = ‖x̂0 − y‖² + E        ‖(x̂0 + ε) − (x̂0' + ε')‖² = ‖x̂0 − x̂0'‖² + 2E

which is E on the diagonal of the samples' Gram matrix, and nothing else. E has an upper bound and a
measurement:

    a Gaussian with the references' spectrum has E = Σ_f v_f σ² / (v_f + σ²); all else has less
    the model's estimate leaves ‖x − x̂0‖² = D σ² − E on average, since x0 − x̂0 is orthogonal to it

References:
    The first is the error of the Wiener filter; the second is Pythagoras' theorem for E[x0 | x].
"""

import math

import torch
from torch import Tensor

from .latents import Latents
from .noise import NoiseModel
from .workers import ALONE, Workers

__all__ = ["Posterior"]

BANDS = 12
LEAST = 0.3  # of the Gaussian bound: guidance moves x, which can make the measurement far too small


class Posterior:
    """The squared norm E that samples lack, for models that draw latents like the references.

    Arguments:
        references: Latents with shape `(N, C, *)`.
        noise: The model's noise.
    """

    def __init__(self, references: Latents, noise: NoiseModel):
        self.noise = noise
        self.variances, self.counts = (part.cpu() for part in band_variances(references))

    @classmethod
    def of_rows(cls, rows: Tensor, weights: Tensor, noise: NoiseModel) -> "Posterior":
        """The same for rows `(N, F)` of numbers without places: their spectrum is that of their covariance."""
        self = object.__new__(cls)
        scaled = weights.sqrt()[:, None] * (rows - weights @ rows)
        degrees = 1 - weights.square().sum().item()
        self.noise = noise
        self.variances = torch.linalg.svdvals(scaled).square().cpu() / max(degrees, 1e-12)
        self.counts = torch.ones_like(self.variances)
        return self

    def bound(self, level: float) -> float:
        """Σ_f v_f σ² / (v_f + σ²), with σ the noise per unit of signal."""
        v = self.variances
        lacking = v if level == math.inf else v / (1 + v / level**2)
        return float(self.counts @ lacking)

    def open(self, sigma: float) -> float:
        """The share of the references' variance that a Gaussian model has not settled at σ, in [0, 1]."""
        total = self.bound(math.inf)
        return self.bound(self.noise.level(sigma)) / total if total > 0 else 1.0

    def lacking(
        self, residual: Tensor | None, sigma: float, workers: Workers = ALONE
    ) -> float | Tensor:
        """E of a batch: the bound, lowered by the measurement as far as that can be trusted.

        Arguments:
            residual: x − x̂0 with x per unit of signal, with shape `(b, *)`; None where there is no signal.
            sigma: The noise level.
            workers: Those that the batch is drawn by.
        """
        level = self.noise.level(sigma)
        bound = self.bound(level)
        if residual is None or bound == 0:
            return bound
        left = workers.gather(torch.linalg.vector_norm(residual.flatten(1), dim=1)).square()
        dim = residual[0].numel()
        measured = (dim * level**2 - left.mean()).clamp(LEAST * bound, bound)
        spread = level**2 * math.sqrt(2 * dim / len(left))  # of the noise's norm, about its mean
        trust = bound**2 / (bound**2 + spread**2)
        return bound + trust * (measured - bound)


def band_variances(references: Latents) -> tuple[Tensor, Tensor]:
    """The variance of a coefficient in each frequency band, and how many coefficients a band has.

    Bands are radial, over the orthonormal cosine transform of all axes behind the channels.

    Arguments:
        references: Latents with shape `(N, C, *)`.
    """
    weights, places = references.weights, references.shape[1:]
    bases = [cosine_basis(n).to(weights) for n in places]
    power = weights.new_zeros(references.shape)
    for which, piece in references.pieces():
        f = piece - references.mean
        for axis, basis in enumerate(bases, 2):
            f = (f.movedim(axis, -1) @ basis.T).movedim(-1, axis)
        power += torch.tensordot(weights[which], f.square_(), 1)
    degrees = 1 - weights.square().sum().item()  # (N − 1)/N for equal weights
    power = power.sum(0) / max(degrees, 1e-12)
    radius = power.new_zeros(places)
    for axis, n in enumerate(places):
        along = [-1 if a == axis else 1 for a in range(len(places))]
        radius = radius + (torch.arange(n).to(power) / n).square().reshape(along)
    # The mean is a band of its own; the others grow by a constant factor, as spectra do.
    lowest = 1 / max(2, *places, 2)
    edges = torch.logspace(math.log10(lowest), math.log10(math.sqrt(2)), BANDS).to(power)
    band = torch.bucketize(radius.sqrt() * (1 + 1e-4), edges).flatten()
    counts = torch.bincount(band, minlength=BANDS + 1).to(power) * references.shape[0]
    totals = counts.new_zeros(BANDS + 1).index_add_(0, band, power.flatten())
    return totals / counts.clamp_min(1), counts


def cosine_basis(n: int) -> Tensor:
    """The orthonormal DCT-II, with shape `(n, n)`: row u holds the cosine of frequency u."""
    u, t = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * (t + 0.5) * u) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis
