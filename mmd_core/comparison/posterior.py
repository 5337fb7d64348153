"""The posterior variance of denoised estimates: how far clean latents spread around x̂0.

At noise σ, x̂0 is a posterior mean, E[x0 | x]. It is blurred, and the estimates of a batch are
closer to each other than clean latents are. A kernel that compares them with clean references sees
a batch that is too similar to itself, and MMD would push its samples too far apart. The comparison
is fair if each x̂0 represents a sample of its posterior, x̂0 + ε: if the batch is distributed like
the references, so are these samples. ε is almost orthogonal to everything else (D is large), and
its squared norm is E = tr Cov(x0 | x). Therefore

    ‖x̂0 + ε − y‖² = ‖x̂0 − y‖² + E        ‖(x̂0 + ε) − (x̂0' + ε')‖² = ‖x̂0 − x̂0'‖² + 2E

so E is added to the diagonal of the samples' Gram matrix, and nothing else changes. There are an
upper bound of E and a measurement:

    bound        E = Σ_f v_f σ² / (v_f + σ²) for a Gaussian with the references' spectrum v_f;
                 E is less for all other distributions with this spectrum
    measurement  ‖x − x̂0‖² = D σ² − E on average, because x0 − x̂0 is orthogonal to x − x̂0

References:
    The bound is the error of the Wiener filter. The measurement is Pythagoras' theorem for the
    conditional mean.
"""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from ..kernels.transfers import Asked, placed
from .latents import Latents
from .noise import NoiseModel

__all__ = ["Posterior"]

BANDS = 12  # frequency bands of the spectrum, beside the mean
LEAST = 0.3  # smallest E, as a share of the bound: guidance can make the measurement far too small


class Posterior:
    """The posterior variance E of denoised estimates, if models draw latents like the references.

    Arguments:
        references: Latents with shape `(N, C, *)`.
        noise: The model's noise.
        asked: With what the host reads the spectrum, once it needs it.
    """

    def __init__(self, references: Latents, noise: NoiseModel, asked: Asked | None = None) -> None:
        self.noise = noise
        self._bands = band_variances(references, asked or Asked())

    @classmethod
    def of_rows(
        cls, rows: Tensor, weights: Tensor, noise: NoiseModel, asked: Asked | None = None
    ) -> "Posterior":
        """The posterior variance for rows without spatial axes.

        The spectrum consists of the eigenvalues of their covariance.

        Arguments:
            rows: With shape `(N, F)`.
            weights: Their weights, with shape `(N,)`, sum 1.
            noise: The model's noise.
            asked: As in `Posterior`.
        """
        self, asked = object.__new__(cls), asked or Asked()
        scaled = asked.later(weights.sqrt()[:, None] * (rows - weights @ rows))
        squares = asked.later(weights.square().sum())

        def bands() -> tuple[Tensor, Tensor]:
            variances = torch.linalg.svdvals(scaled()).square()
            variances = variances / max(1 - squares().item(), 1e-12)
            return variances, torch.ones_like(variances)

        self.noise, self._bands = noise, bands
        return self

    @property
    def variances(self) -> Tensor:
        """The variances v_f of the references' spectrum."""
        return self._found[0]

    @property
    def counts(self) -> Tensor:
        """How many coefficients have each of these variances, with the same shape."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[Tensor, Tensor]:
        return self._bands()

    def bound(self, level: float) -> float:
        """The upper bound Σ_f v_f σ² / (v_f + σ²); σ is `level`, the noise per unit of signal."""
        v = self.variances
        lacking = v if level == math.inf else v / (1 + v / level**2)
        return float(self.counts @ lacking)

    def open(
        self, sigma: float, residual: Tensor | None = None, each: bool = False
    ) -> float | Tensor:
        """The share of the references' variance that is still open at σ, in [0, 1].

        It is `lacking` divided by all variance. Without a residual this is the share that a
        Gaussian model has not settled.

        Arguments:
            sigma: The noise level.
            residual, each: As in `lacking`.
        """
        total = self.bound(math.inf)
        return self.lacking(residual, sigma, each) / total if total > 0 else 1.0

    def lacking(self, residual: Tensor | None, sigma: float, each: bool = False) -> float | Tensor:
        """E of a batch: the bound, moved towards the measurement as far as this is reliable.

        Arguments:
            residual: x − x̂0 with x per unit of signal, with shape `(B, *)`; None if there is no
                signal.
            sigma: The noise level.
            each: Whether each sample is measured by itself: E then has the shape `(B,)`.
        """
        level = self.noise.level(sigma)
        bound = self.bound(level)
        if residual is None or bound == 0:
            return bound
        left = torch.linalg.vector_norm(residual.flatten(1), dim=1).square()
        left = left if each else left.mean()
        dim, count = residual[0].numel(), 1 if each else len(residual)
        spread = level**2 * math.sqrt(2 * dim / count)  # standard deviation of the measurement
        trust = bound**2 / (bound**2 + spread**2)
        most = bound + trust * (dim * level**2 - bound)
        least = bound + trust * (LEAST * bound - bound)
        return torch.rsub(left, most, alpha=trust).clamp_(least, bound)


def band_variances(references: Latents, asked: Asked) -> Callable[[], tuple[Tensor, Tensor]]:
    """The mean variance of a coefficient in each frequency band, and the coefficients per band.

    The coefficients are those of the orthonormal cosine transform over all spatial axes. Bands are
    radial.

    Arguments:
        references: Latents with shape `(N, C, *)`.
        asked: With what the host reads the spectrum.

    Returns:
        A function that returns variances and numbers of coefficients, both with shape
        `(BANDS + 1,)`, on the CPU.
    """
    weights, places = references.weights, references.shape[1:]
    bases = [placed(cosine_basis(n), weights) for n in places]
    power = weights.new_zeros(references.shape)
    for which, piece in references.pieces():
        f = piece - references.mean
        for axis, basis in enumerate(bases, 2):
            f = (f.movedim(axis, -1) @ basis.T).movedim(-1, axis)
        power += torch.tensordot(weights[which], f.square_(), 1)
    # On the CPU: sums by index are not reproducible on a GPU.
    powers, squares = asked.later(power.sum(0)), asked.later(weights.square().sum())

    def bands() -> tuple[Tensor, Tensor]:
        unbiased = max(1 - squares().item(), 1e-12)  # (N − 1)/N for equal weights
        return _by_band(powers() / unbiased, references.shape[0])

    return bands


def _by_band(power: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """The mean of `power`, with the shape of all places, in each band, and the coefficients."""
    places = power.shape
    radius = power.new_zeros(places)
    for axis, n in enumerate(places):
        along = [-1 if a == axis else 1 for a in range(len(places))]
        radius = radius + (torch.arange(n).to(power) / n).square().reshape(along)
    # Frequency 0 is a band of its own. The edges of the others grow by a constant factor, because
    # spectra vary on a logarithmic scale.
    lowest = 1 / max(2, *places, 2)
    edges = torch.logspace(math.log10(lowest), math.log10(math.sqrt(2)), BANDS).to(power)
    band = torch.bucketize(radius.sqrt() * (1 + 1e-4), edges).flatten()
    counts = torch.bincount(band, minlength=BANDS + 1).to(power) * channels
    totals = counts.new_zeros(BANDS + 1).index_add_(0, band, power.flatten())
    return totals / counts.clamp_min(1), counts


def cosine_basis(n: int) -> Tensor:
    """The orthonormal DCT-II matrix, with shape `(n, n)`: row u is the cosine of frequency u."""
    u, t = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * (t + 0.5) * u) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis
