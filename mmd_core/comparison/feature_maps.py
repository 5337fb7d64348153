"""What of a latent is compared: all of it, or features of it, whose gradients are pulled back to it.

    latent         x itself, as published
    low_pass       x seen from afar: palette and composition, not detail
    channel_stats  means and covariances of the channels: palette and contrast, wherever they are
    patches        the distribution of small patches, wherever they are (`patches.py`)

For features f with the Jacobian J the gradient of MMD²(f(x), f(y)) is J(x)ᵀ g, with g its gradient in the
features. All features here are isometric as far as can be, J Jᵀ ≈ 1: then J(x)ᵀ δ moves the features by δ, so
one strength fits all, and white noise of standard deviation σ in x is that in f(x).
"""

import math

import torch
from torch import Tensor

from .latents import Latents
from .noise import NoiseModel
from .posterior import Posterior, cosine_basis
from .workers import ALONE, Workers

__all__ = ["ChannelStats", "Features", "LowPass", "Whole", "make_features"]


class Whole:
    """The latents themselves."""

    def fit(self, references: Latents, noise: NoiseModel) -> Latents:
        """Learns what estimates lack from references with shape `(N, C, *)`; the features of these.

        Attributes:
            whole: What the latents lack.
            posterior: What their features lack.
        """
        self.whole = self.posterior = Posterior(references, noise)
        return references

    def __call__(self, x: Tensor) -> Tensor:
        """The features of latents `x`, with shape `(B, C, *)`."""
        return x

    def seen(
        self, x0: Tensor, residual: Tensor | None, sigma: float, workers: Workers = ALONE
    ) -> tuple[Tensor, float | Tensor]:
        """The features of estimates `x0`, and the squared norm that they lack (`posterior.py`)."""
        residual = None if residual is None else self(residual)  # linear
        return self(x0), self.posterior.lacking(residual, sigma, workers)

    def pull_back(self, x: Tensor, g: Tensor, sigma: float | None = None) -> Tensor:
        """J(x)ᵀ g, with the shape of `x`; with `sigma`, of the features that `seen` gives there."""
        return g

    def _of(self, references: Latents) -> Latents:
        """The features of references, which are few numbers."""
        parts = [self(piece) for _, piece in references.pieces()]
        return Latents(torch.cat(parts), references.weights)


class LowPass(Whole):
    """Smaller latents: the cosine waves of each axis that average-pooling by `pool` can keep.

    What remains is an orthonormal projection; unlike blocks it leaves no edges in what it pulls back.
    """

    def __init__(self, shape: tuple[int, ...], pool: int):
        self.projections = []
        for n in shape[1:]:
            m = max(1, round(n / pool))
            self.projections.append(cosine_basis(m).T @ cosine_basis(n)[:m])

    def fit(self, references: Latents, noise: NoiseModel) -> Latents:
        self.projections = [projection.to(references.weights) for projection in self.projections]
        super().fit(references, noise)
        features = self._of(references)
        self.posterior = Posterior(features, noise)
        return features

    def __call__(self, x: Tensor) -> Tensor:
        for axis, projection in enumerate(self.projections, 2):
            x = (x.movedim(axis, -1) @ projection.to(x).T).movedim(-1, axis)
        return x

    def pull_back(self, x: Tensor, g: Tensor, sigma: float | None = None) -> Tensor:
        for axis, projection in enumerate(self.projections, 2):
            g = (g.movedim(axis, -1) @ projection.to(g)).movedim(-1, axis)
        return g


class ChannelStats(Whole):
    """√P · (means, square root of the covariance) of the C channels over the P places of a latent.

    Their squared distance is about that of the nearest latents with such statistics (Bures'
    distance of two Gaussians, if their covariances commute).

    x̂0 is a blur and lacks covariance. It is given what it lacks, the typical covariance of a
    reference times the share of all variance that is not settled.
    """

    def fit(self, references: Latents, noise: NoiseModel) -> Latents:
        super().fit(references, noise)
        features = self._of(references)
        self.posterior = Posterior.of_rows(features.stored, features.weights, noise)
        self.typical = sum(
            torch.tensordot(references.weights[which], self._moments(piece)[1], 1)
            for which, piece in references.pieces()
        )
        return features

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means `(B, C)` and covariances `(B, C, C)`."""
        places = x.reshape(*x.shape[:2], -1)
        deviations = places - places.mean(2, keepdim=True)
        return places.mean(2), deviations @ deviations.transpose(1, 2) / places.shape[2]

    def __call__(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """The features, with shape `(B, C + C²)`; with `sigma`, of estimates that lack covariance."""
        means, covariances = self._moments(x)
        values, vectors = self._spectrum(covariances + self._lacking(sigma))
        roots = (vectors * values[:, None]) @ vectors.transpose(1, 2)
        return torch.cat([means, roots.flatten(1)], 1) * math.sqrt(x[0, 0].numel())

    def _spectrum(self, covariances: Tensor) -> tuple[Tensor, Tensor]:
        """The eigenvalues `(B, C)` of the square root, and its eigenvectors."""
        # NaN of a broken model is told by who knows its cause, and here would end in an error of another kind.
        values, vectors = torch.linalg.eigh(covariances.nan_to_num(0, 0, 0))
        return values.clamp_min(0).sqrt(), vectors

    def _lacking(self, sigma: float | None) -> Tensor | float:
        return 0.0 if sigma is None else self.whole.open(sigma) * self.typical

    def seen(
        self, x0: Tensor, residual: Tensor | None, sigma: float, workers: Workers = ALONE
    ) -> tuple[Tensor, float | Tensor]:
        return self(x0, sigma), self.posterior.lacking(None, sigma)

    def pull_back(self, x: Tensor, g: Tensor, sigma: float | None = None) -> Tensor:
        """With R² = C and symmetric G: dR of dC solves R dR + dR R = dC, so ∂/∂C = Y with R Y + Y R = G."""
        means, covariances = self._moments(x)
        values, vectors = self._spectrum(covariances + self._lacking(sigma))
        c, places = means.shape[1], x[0, 0].numel()
        of_means, of_roots = g[:, :c], g[:, c:].reshape(-1, c, c)
        of_roots = (of_roots + of_roots.transpose(1, 2)) / 2
        sums = values[:, :, None] + values[:, None]
        # Where a latent has no variance there is nothing to scale either.
        inverse = torch.where(sums > 1e-6, 1 / sums.clamp_min(1e-6), 0)
        y = vectors @ ((vectors.transpose(1, 2) @ of_roots @ vectors) * inverse)
        y = y @ vectors.transpose(1, 2)
        deviations = x.reshape(*x.shape[:2], -1) - means[:, :, None]
        return ((of_means[:, :, None] + 2 * y @ deviations) / math.sqrt(places)).reshape(x.shape)


Features = Whole | LowPass | ChannelStats


def make_features(name: str, shape: tuple[int, ...], pool: int = 4) -> Features:
    """The feature map of that name, for latents of the shape `(C, *)`.

    Arguments:
        name: One of `FEATURE_SPACES` but `patches`, of which an image has many.
        pool: How many places of an axis `low_pass` makes one of.
    """
    if name == "low_pass":
        return LowPass(shape, pool)
    return ChannelStats() if name == "channel_stats" else Whole()
