"""Frequency bands of a latent, and references matched to a noise level.

At noise σ a sampler does not know the clean latent but its posterior mean x̂0. A Gaussian with variance
v in some frequency band has posterior means with variance W·v, W = v / (v + σ²): smaller than that of
clean references. Compared with clean references, x̂0 would be pushed apart beyond its place. So the
references' deviations from their mean are shrunk by √W, band by band, with v estimated from the
references themselves.
"""

import math

import torch
from torch import Tensor

__all__ = ["Spectrum"]

BANDS = 12


def dct_matrix(n: int) -> Tensor:
    """The orthonormal DCT-II, with shape `(n, n)`: row u holds the cosine of frequency u."""
    u, t = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * (t + 0.5) * u) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis


class Spectrum:
    """The orthonormal 2-D DCT over the last two axes of a latent, cut into radial bands.

    A latent without two spatial axes, as `(B, D)`, is its own spectrum, with a single band.

    Arguments:
        shape: The shape of one latent, `(C, *, h, w)`.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype):
        self.shape = tuple(shape)
        self.spatial = len(shape) >= 3
        if not self.spatial:
            self.band = torch.zeros(math.prod(shape), dtype=torch.long, device=device)
            return
        h, w = shape[-2:]
        self.rows, self.cols = (dct_matrix(n).to(device, dtype) for n in (h, w))
        frequency = torch.hypot(torch.arange(h)[:, None] / h, torch.arange(w) / w)
        # The mean is a band of its own; the others grow by a constant factor, as spectra do.
        edges = torch.logspace(math.log10(1 / max(h, w)), math.log10(math.sqrt(2)), BANDS)
        band = torch.bucketize(frequency, edges, right=True).to(device)
        self.band = band.expand(self.shape).reshape(-1)

    @property
    def bands(self) -> int:
        return int(self.band.max()) + 1

    def forward(self, x: Tensor) -> Tensor:
        """Latents, with shape `(B, *shape)`, to coefficients, with shape `(B, D)`."""
        if self.spatial:
            x = self.rows @ x @ self.cols.T
        return x.reshape(len(x), -1)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Coefficients, with shape `(B, D)`, to latents, with shape `(B, *shape)`."""
        x = coefficients.reshape(-1, *self.shape)
        return self.rows.T @ x @ self.cols if self.spatial else x

    def variances(self, deviations: Tensor, weights: Tensor) -> Tensor:
        """The weighted mean square of coefficients `(N, D)` within each band, with shape `(bands,)`."""
        power = weights @ deviations.square()  # (D,)
        total = power.new_zeros(self.bands).index_add_(0, self.band, power)
        return total / torch.bincount(self.band, minlength=self.bands).clamp_min(1)
