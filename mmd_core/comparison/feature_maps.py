"""Feature maps: the features of latents that the kernel compares, and the pull-back of gradients.

    latent         x itself, as in the paper
    low_pass       the low frequencies of x: palette and composition, without detail
    palette        means and covariances of the channels: palette and contrast, without position
    channel_stats  the same, with a Gaussian bound for what x̂0 has lost: it washes images out
    patches        the distribution of small patches, without position (`by_patches.py`)

For features f with the Jacobian J the gradient of MMD²(f(x), f(y)) is J(x)ᵀ g, where g is the
gradient with respect to the features. The feature maps here are approximately isometric, J Jᵀ ≈ 1.
Therefore J(x)ᵀ δ moves the features by δ, one strength suits all feature spaces, and white noise of
standard deviation σ in x has standard deviation σ in f(x) too.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..kernels.transfers import Asked, placed
from .latents import Latents
from .noise import NoiseModel
from .posterior import Posterior, cosine_basis
from .small_matrices import eigh

__all__ = [
    "ChannelStats",
    "Features",
    "LowPass",
    "Seen",
    "Spectrum",
    "UnitLength",
    "Whole",
    "make_features",
]


class Seen(NamedTuple):
    """Denoised estimates in feature space.

    Attributes:
        features: Their features, with shape `(B, *)`.
        lacking: Their posterior variance E in feature space, a scalar or with shape `(B,)`.
        spectrum: For `ChannelStats`: the spectrum from which the features were taken, which
            includes what the estimates lack. None for others.
    """

    features: Tensor
    lacking: Tensor | float
    spectrum: "Spectrum | None" = None


class Spectrum(NamedTuple):
    """The statistics of the channels of latents.

    Attributes:
        means: The means of the channels, with shape `(B, C)`.
        roots: The square roots of the eigenvalues of their covariance, with shape `(B, C)`.
        vectors: Its eigenvectors as columns, with shape `(B, C, C)`.
    """

    means: Tensor
    roots: Tensor
    vectors: Tensor


class Whole:
    """The identity map: the features are the latents themselves.

    It is the base class of the other feature maps. The method `fit` sets the attributes.

    Attributes:
        whole: The posterior variance of latents.
        posterior: The posterior variance of features.
    """

    def fit(self, references: Latents, noise: NoiseModel, asked: Asked | None = None) -> Latents:
        """Estimates the posterior variance from the references, and returns their features.

        Arguments:
            references: Latents with shape `(N, C, *)`.
            noise: The model's noise.
            asked: As in `Posterior`.
        """
        self.whole = self.posterior = Posterior(references, noise, asked)
        return references

    def __call__(self, x: Tensor) -> Tensor:
        """The features of latents `x`, with shape `(B, C, *)`."""
        return x

    def seen(self, x0: Tensor, residual: Tensor | None, sigma: float, each: bool = False) -> Seen:
        """The features of denoised estimates.

        Arguments:
            x0: The estimates, with shape `(B, C, *)`.
            residual, sigma, each: As in `Posterior.lacking`.
        """
        residual = None if residual is None else self(residual)  # this map is linear
        return Seen(self(x0), self.posterior.lacking(residual, sigma, each))

    def pull_back(self, x: Tensor, g: Tensor, spectrum: Spectrum | None = None) -> Tensor:
        """J(x)ᵀ g, with the shape of `x`.

        Arguments:
            x: Latents with shape `(B, C, *)`.
            g: The gradient with respect to the features, with their shape.
            spectrum: As in `Seen`, for the Jacobian J of the features that `seen` returns.
        """
        return g

    def _of(self, references: Latents) -> Latents:
        """The features of all references, in device memory: they have few numbers per reference."""
        parts = [self(piece) for _, piece in references.pieces()]
        return Latents(torch.cat(parts), references.weights)


class UnitLength(Whole):
    """x/‖x‖, for the published mode `official_l2norm`. 0 stays 0.

    As in the authors' code, gradients are not led back through the division: `pull_back` returns
    the gradient with respect to x/‖x‖.
    """

    def fit(self, references: Latents, noise: NoiseModel, asked: Asked | None = None) -> Latents:
        whole = super().fit(references, noise, asked)
        return Latents(whole.stored, whole.weights, lambda y: self(whole.prepare(y)))

    def __call__(self, x: Tensor) -> Tensor:
        return normalize(x.flatten(1), dim=1).view_as(x)


class LowPass(Whole):
    """Latents at a lower resolution.

    The features are the lowest `n / pool` cosine frequencies of each spatial axis of length n. The
    map is a projection with orthonormal rows. Unlike average pooling, its pull-back has no block
    edges.
    """

    def __init__(self, shape: tuple[int, ...], pool: int) -> None:
        self.projections = []
        for n in shape[1:]:
            m = max(1, round(n / pool))
            self.projections.append(cosine_basis(m).T @ cosine_basis(n)[:m])

    def fit(self, references: Latents, noise: NoiseModel, asked: Asked | None = None) -> Latents:
        self.projections = [placed(each, references.weights) for each in self.projections]
        super().fit(references, noise, asked)
        features = self._of(references)
        self.posterior = Posterior(features, noise, asked)
        return features

    def __call__(self, x: Tensor) -> Tensor:
        for axis, projection in enumerate(self.projections, 2):
            x = (x.movedim(axis, -1) @ projection.to(x).T).movedim(-1, axis)
        return x

    def pull_back(self, x: Tensor, g: Tensor, spectrum: Spectrum | None = None) -> Tensor:
        for axis, projection in enumerate(self.projections, 2):
            g = (g.movedim(axis, -1) @ projection.to(g)).movedim(-1, axis)
        return g


class ChannelStats(Whole):
    """√P · (means, square root of the covariance) of the C channels over the P places of a latent.

    The squared distance between features is approximately P times the squared Wasserstein-2 (Bures)
    distance between the two Gaussians with these statistics; it is equal if their covariances
    commute.

    x̂0 is blurred, so its covariance is too small. `seen` adds the missing covariance: the mean
    covariance of a reference times the share of the variance that the model has not settled at σ
    (`Posterior.open`). If that share is too large, images seem to have more contrast than they
    will have, and guidance takes contrast away: they become pale.

    Arguments:
        measured: Whether that share follows the measurement of `Posterior.lacking`. If not, it is
            the bound, which is far too large for models of distinct things.
    """

    def __init__(self, measured: bool = False) -> None:
        self.measured = measured

    def fit(self, references: Latents, noise: NoiseModel, asked: Asked | None = None) -> Latents:
        super().fit(references, noise, asked)
        features = self._of(references)
        self.posterior = Posterior.of_rows(features.stored, features.weights, noise, asked)
        return features

    def _of(self, references: Latents) -> Latents:
        moments, pixels, self.typical = [], 0, 0
        for which, piece in references.pieces():
            moments.append(self._moments(piece))
            pixels = piece[0, 0].numel()
            self.typical += torch.tensordot(references.weights[which], moments[-1][1], 1)
        # All at once, because the host decomposes them.
        means, covariances = (torch.cat(each) for each in zip(*moments, strict=True))
        whole, sizes = self._decomposed(means, covariances), [len(each) for each, _ in moments]
        parts = zip(*(each.split(sizes) for each in whole), strict=True)
        rows = [self._features(Spectrum(*part), pixels) for part in parts]
        return Latents(torch.cat(rows), references.weights)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means `(B, C)` and covariances `(B, C, C)` of the channels."""
        places = x.reshape(*x.shape[:2], -1)
        deviations = places - places.mean(2, keepdim=True)
        return places.mean(2), deviations @ deviations.transpose(1, 2) / places.shape[2]

    def __call__(self, x: Tensor) -> Tensor:
        """The features of latents `x`, with shape `(B, C + C²)`."""
        return self._features(self._spectrum(x), x[0, 0].numel())

    def _features(self, spectrum: Spectrum, places: int) -> Tensor:
        vectors = spectrum.vectors
        roots = (vectors * spectrum.roots[:, None]) @ vectors.transpose(1, 2)
        return torch.cat([spectrum.means, roots.flatten(1)], 1) * math.sqrt(places)

    def _spectrum(self, x: Tensor, missing: Tensor | float = 0.0) -> Spectrum:
        """The spectrum of latents `x` whose covariances lack `missing`."""
        means, covariances = self._moments(x)
        return self._decomposed(means, covariances + missing)

    def _decomposed(self, means: Tensor, covariances: Tensor) -> Spectrum:
        # `eigh` fails on NaN with an unclear error, so NaN is replaced. A `Guidance` that records
        # raises a clear error later (`NotFinite`).
        values, vectors = eigh(covariances.nan_to_num(0, 0, 0))
        return Spectrum(means, values.clamp_min(0).sqrt(), vectors)

    def seen(self, x0: Tensor, residual: Tensor | None, sigma: float, each: bool = False) -> Seen:
        share = self.whole.open(sigma, residual if self.measured else None, each)
        if isinstance(share, Tensor):
            share = share.reshape(-1, 1, 1)
        spectrum = self._spectrum(x0, share * self.typical)
        features = self._features(spectrum, x0[0, 0].numel())
        return Seen(features, self.posterior.lacking(None, sigma), spectrum)

    def pull_back(self, x: Tensor, g: Tensor, spectrum: Spectrum | None = None) -> Tensor:
        """J(x)ᵀ g, with the shape of `x`.

        R is the square root of the covariance C, R² = C, so that R dR + dR R = dC. The gradient G
        (symmetric) with respect to R becomes the gradient Y with respect to C that solves R Y + Y R
        = G.
        """
        means, values, vectors = spectrum or self._spectrum(x)
        c, places = means.shape[1], x[0, 0].numel()
        of_means, of_roots = g[:, :c], g[:, c:].reshape(-1, c, c)
        of_roots = (of_roots + of_roots.transpose(1, 2)) / 2
        sums = values[:, :, None] + values[:, None]
        # Without variance the deviations are 0, so the gradient is 0 there.
        inverse = torch.where(sums > 1e-6, 1 / sums.clamp_min(1e-6), 0)
        y = vectors @ ((vectors.transpose(1, 2) @ of_roots @ vectors) * inverse)
        y = y @ vectors.transpose(1, 2)
        deviations = x.reshape(*x.shape[:2], -1) - means[:, :, None]
        return ((of_means[:, :, None] + 2 * y @ deviations) / math.sqrt(places)).reshape(x.shape)


Features = Whole | UnitLength | LowPass | ChannelStats


def make_features(name: str, shape: tuple[int, ...], pool: int = 4) -> Features:
    """The feature map of that name, for latents of the shape `(C, *)`.

    Arguments:
        name: One of `FEATURE_SPACES` except `patches`, which has many rows per image
            (`by_patches.py`).
        shape: The shape of a latent, `(C, *)`.
        pool: The factor by which `low_pass` reduces each spatial axis.
    """
    if name == "low_pass":
        return LowPass(shape, pool)
    if name in ("channel_stats", "palette"):
        return ChannelStats(measured=name == "palette")
    return Whole()
