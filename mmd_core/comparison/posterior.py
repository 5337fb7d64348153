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

import torch
from torch import Tensor

from .latents import Latents
from .noise import NoiseModel
from .small_matrices import singular_values

__all__ = ["Posterior"]

BANDS = 12  # frequency bands of the spectrum, beside the mean
LEAST = 0.3  # smallest E, as a share of the bound: guidance can make the measurement far too small


class Posterior:
    """The posterior variance E of denoised estimates, if models draw latents like the references.

    Arguments:
        references: Latents with shape `(N, C, *)`.
        noise: The model's noise.

    Attributes:
        variances: The variances v_f of the references' spectrum.
        counts: How many coefficients have each of these variances, with the same shape.
    """

    def __init__(self, references: Latents, noise: NoiseModel) -> None:
        self.noise = noise
        self.variances, self.counts = band_variances(references)

    @classmethod
    def of_rows(cls, rows: Tensor, weights: Tensor, noise: NoiseModel) -> "Posterior":
        """The posterior variance for rows without spatial axes.

        The spectrum consists of the eigenvalues of their covariance.

        Arguments:
            rows: With shape `(N, F)`.
            weights: Their weights, with shape `(N,)`, sum 1.
            noise: The model's noise.
        """
        self = object.__new__(cls)
        scaled = weights.sqrt()[:, None] * (rows - weights @ rows)
        degrees = 1 - weights.square().sum().item()
        self.noise = noise
        self.variances = singular_values(scaled).square() / max(degrees, 1e-12)
        self.counts = torch.ones_like(self.variances)
        return self

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
        dim, count = residual[0].numel(), 1 if each else len(left)
        measured = dim * level**2 - (left if each else left.mean())
        measured = measured.clamp(LEAST * bound, bound)
        spread = level**2 * math.sqrt(2 * dim / count)  # standard deviation of the measurement
        trust = bound**2 / (bound**2 + spread**2)
        return bound + trust * (measured - bound)


def band_variances(references: Latents) -> tuple[Tensor, Tensor]:
    """The mean variance of a coefficient in each frequency band, and the coefficients per band.

    The coefficients are those of the orthonormal cosine transform over all spatial axes. Bands are
    radial.

    Arguments:
        references: Latents with shape `(N, C, *)`.

    Returns:
        Variances and numbers of coefficients, both with shape `(BANDS + 1,)`, on the CPU.
    """
    weights, places = references.weights, references.shape[1:]
    bases = [cosine_basis(n).to(weights) for n in places]
    power = weights.new_zeros(references.shape)
    for which, piece in references.pieces():
        f = piece - references.mean
        for axis, basis in enumerate(bases, 2):
            f = (f.movedim(axis, -1) @ basis.T).movedim(-1, axis)
        power += torch.tensordot(weights[which], f.square_(), 1)
    # On the CPU: sums by index are not reproducible on a GPU.
    power, weights = power.sum(0).cpu(), weights.cpu()
    power /= max(1 - weights.square().sum().item(), 1e-12)  # (N − 1)/N for equal weights
    radius = power.new_zeros(places)
    for axis, n in enumerate(places):
        along = [-1 if a == axis else 1 for a in range(len(places))]
        radius = radius + (torch.arange(n).to(power) / n).square().reshape(along)
    # Frequency 0 is a band of its own. The edges of the others grow by a constant factor, because
    # spectra vary on a logarithmic scale.
    lowest = 1 / max(2, *places, 2)
    edges = torch.logspace(math.log10(lowest), math.log10(math.sqrt(2)), BANDS).to(power)
    band = torch.bucketize(radius.sqrt() * (1 + 1e-4), edges).flatten()
    counts = torch.bincount(band, minlength=BANDS + 1).to(power) * references.shape[0]
    totals = counts.new_zeros(BANDS + 1).index_add_(0, band, power.flatten())
    return totals / counts.clamp_min(1), counts


def cosine_basis(n: int) -> Tensor:
    """The orthonormal DCT-II matrix, with shape `(n, n)`: row u is the cosine of frequency u."""
    u, t = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * (t + 0.5) * u) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis
