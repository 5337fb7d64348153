"""Compares a batch with the references by features, one row per image, in Gram space."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.config import KernelConfig
from ..kernels.kernels import Gram, Kernel
from ..kernels.mmd import mmd2_from_values, uniform
from ..kernels.precision import full_precision
from ..kernels.transfers import Asked
from .coupling import Coupling
from .feature_maps import Features, Spectrum, make_features
from .flow import flowed, substeps
from .gram_space import Combination, GramSpace
from .latents import Latents
from .nearest import spacing, spacing_in
from .noise import NoiseModel
from .patch_embedding import PatchEmbedding
from .rows import Rows, never_stopped

__all__ = ["Compared", "FeatureComparison", "comparable_rows"]

ALWAYS = 2**26  # bytes: inner products up to this size are always stored, whatever the budget is


def comparable_rows(
    config: KernelConfig, references: Tensor, weights: Tensor
) -> tuple[Callable[[Tensor], Tensor], KernelConfig]:
    """A function from latents `(n, C, *)` to rows `(n, F)`, and the kernel config for these rows.

    The kernel between rows equals the kernel between images of `config`; for `patches` it is the
    linear kernel between Nyström embeddings.

    Arguments:
        config: The kernel and the feature space.
        references: With shape `(N, C, *)`.
        weights: Their weights, with shape `(N,)`, not negative.
    """
    if config.feature_space == "patches":
        embedding = PatchEmbedding(config, references, weights)
        return embedding, replace(config, kernel="linear", feature_space="latent")
    features = make_features(config.feature_space, references.shape[1:], config.pool)

    @full_precision()
    def rows(latents: Tensor) -> Tensor:
        return features(latents).flatten(1)

    return rows, replace(config, feature_space="latent")


class FeatureComparison:
    """The features of the references and of the finished samples, with which a batch is compared.

    Arguments:
        config: The kernel and the feature space.
        references: Latents with shape `(N, C, *)`.
        noise: The model's noise.
        finished: Further rows, with shape `(m, C, *)`: finished samples that belong to the same
            measure as the batch, and base images.
        budget: How many bytes of device memory the references may use.
        each: Whether the posterior variance of each sample is measured by itself.
        check: As in `Rows`.
        features: The feature map; None for that of `config`.
    """

    def __init__(
        self,
        config: KernelConfig,
        references: Latents,
        noise: NoiseModel,
        finished: Tensor | None = None,
        budget: float = math.inf,
        each: bool = False,
        check: Callable[[], None] = never_stopped,
        features: Features | None = None,
    ) -> None:
        self.weights, self.each = references.weights, each
        pool = config.pool
        self.features = features or make_features(config.feature_space, references.shape, pool)
        asked = Asked()
        compared = self.features.fit(references, noise, asked)
        self.posterior = self.features.whole
        added = None if finished is None else self.features(finished)
        count, size = len(compared), self.weights.element_size()
        if added is not None:
            count, budget = count + len(added), budget - size * added.numel()
        grams = size * count**2
        compact = grams > max(budget / 2, ALWAYS)
        rows = Rows(compared, config.radial, budget if compact else budget - grams, check)
        self.space = GramSpace(rows, added, compact)
        dim = math.prod(compared.shape)
        self.kernel = config.resolve(self._gram, dim, rows.centre, asked.now)
        asked.read()
        self._coupling, self._mmd2_of_rows = None, None

    @property
    def _gram(self) -> Tensor:
        """Inner products between the references of `GramSpace.sample`, with shape `(n, n)`."""
        index, gram = self.space.sample
        return gram[: len(index), : len(index)]

    def start(self, x0: Tensor, residual: Tensor | None, sigma: float) -> "Compared":
        """The features of denoised estimates, corrected for posterior variance (`posterior.py`).

        Arguments:
            x0: The denoised estimates, with shape `(B, *shape)`.
            residual: As in `Posterior.lacking`.
            sigma: The noise level.
        """
        features, lacking, spectrum = self.features.seen(x0, residual, sigma, self.each)
        return Compared(self, x0, spectrum, self.space.project(features, lacking).start())

    def as_it_is(self, x: Tensor) -> "Compared":
        """The features of latents `x`, without a correction for posterior variance.

        Arguments:
            x: The latents, with shape `(B, *shape)`.
        """
        w = self.space.project(self.features(x)).start()
        return Compared(self, x, None, w)

    def mmd2_of_rows(self, coupling: Coupling) -> Tensor:
        """`Coupling.mmd2_of_rows`; the result for the last coupling is cached."""
        if self._coupling is not coupling:
            index, gram = self.space.sample
            memory = torch.arange(len(self.weights), len(self.space), device=index.device)
            rows = torch.cat([index, memory])
            self._coupling = coupling
            self._mmd2_of_rows = coupling.mmd2_of_rows(self.kernel, gram, rows)
        return self._mmd2_of_rows

    @cached_property
    def spacing(self) -> Tensor:
        """The spacing of the references (`nearest.py`), a scalar."""
        return spacing(self.space.rows) if self.space.gram is None else spacing_in(self._gram)

    def mmd2(self, x: Tensor, unbiased: bool) -> Tensor:
        """MMD² between finished latents and the references, a scalar.

        Arguments:
            x: The finished latents, with shape `(b, *shape)`.
            unbiased: Whether to take the unbiased estimate; needs at least 2 of each.
        """
        values, b = self.kernel.values(self._finished(x)), len(x)
        index, _ = self.space.sample
        kyy = self.kernel.values(Gram.within(self._gram))
        p, q = uniform(b, values), self.weights[index]
        return mmd2_from_values(values[:, :b], values[:, b + index], kyy, p, q / q.sum(), unbiased)

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest reference of each finished latent.

        Arguments:
            x: The finished latents, with shape `(b, *shape)`.

        Returns:
            The indices of the references, and the distances divided by the spacing of the
            references, both with shape `(b,)`.
        """
        found, index = _to_references(self._finished(x), len(self.weights)).min(1)
        return index, found.sqrt() / self.spacing

    def distances(self, x: Tensor) -> Tensor:
        """The distances between finished latents and the references, with shape `(b, N)`.

        Arguments:
            x: The finished latents, with shape `(b, *shape)`.
        """
        return _to_references(self._finished(x), len(self.weights)).sqrt()

    def _finished(self, x: Tensor) -> Gram:
        return self.space.project(self.features(x.to(self.weights))).start().gram


def _to_references(gram: Gram, n: int) -> Tensor:
    """Squared distances between samples and the n references, with shape `(B, n)`."""
    return gram.sq_dist()[:, len(gram.dot) :][:, :n]


class Pulls(Protocol):
    """What moves samples: a `Coupling`, or a contrast.

    Attributes:
        resting: Whether samples come to rest on the way.
    """

    resting: bool

    def velocity(self, kernel: Kernel, gram: Gram) -> Tensor:
        """[L | F] with w' = L·w + F·z, with shape `(B, B + M)`."""

    def bounded(self, kernel: Kernel) -> bool:
        """Whether the coefficients of a sample are known to be small."""


@dataclass(frozen=True, eq=False)
class Compared:
    """A batch in feature space, at its start or after a move.

    Arguments:
        comparison: The references and finished samples with which it is compared.
        x0: The latents before any move, with shape `(B, *shape)`.
        spectrum: As in `Seen`.
        w: The current features of the samples.
    """

    comparison: FeatureComparison
    x0: Tensor
    spectrum: Spectrum | None
    w: Combination

    def flowed(self, pulls: Pulls, reach: float) -> tuple["Compared", int]:
        """The batch after the flow of `pulls` for the time `reach`, and the number of sub-steps."""
        kernel = self.comparison.kernel
        lengths = substeps(reach, kernel.singular, pulls.resting)
        steep = not kernel.radial and not pulls.resting
        w = flowed(
            self.w, lambda w: pulls.velocity(kernel, w.gram), lengths, kernel.singular, steep,
            pulls.bounded(kernel), self.comparison.space.rows.check,
        )  # fmt: skip
        return replace(self, w=w), len(lengths)

    def moved(self, by: Tensor) -> "Compared":
        """The batch at w + L·w + F·z, with `by` = [L | F] of shape `(B, B + M)`."""
        return replace(self, w=self.w.moved(by))

    def at(self, displacement: Tensor) -> "Compared":
        """The batch with its latents moved by `displacement`, with shape `(B, *shape)`."""
        comparison, lacking = self.comparison, self.w.projection.lacking
        rows = comparison.features(self.x0 + displacement)
        return replace(self, w=comparison.space.project(rows, lacking).start())

    def displacement(self) -> Tensor:
        """The displacement of the latents, with shape `(B, *shape)`.

        It is J(x)ᵀ times the displacement of the features since the start.
        """
        comparison = self.comparison
        g = self.w.displacement().reshape(-1, *comparison.space.rows.latents.shape)
        return comparison.features.pull_back(self.x0, g, self.spectrum)

    def shortened(self, share: Tensor) -> "Compared":
        """The batch with the displacement of each sample multiplied by its `share`.

        Arguments:
            share: One factor for each sample, with shape `(B,)`.
        """
        return replace(self, w=self.w.shortened(share))

    def mmd2(self, coupling: Coupling) -> Tensor:
        """The biased MMD² between samples (finished ones included) and references, a scalar."""
        return coupling.mmd2(self._values, self.comparison.mmd2_of_rows(coupling))

    def saturated(self) -> Tensor:
        """The share of kernel values between samples and references that are saturated, a scalar.

        `RadialKernel.saturated` says which values are.
        """
        b, n = len(self._values), len(self.comparison.weights)
        values = self._values[:, b : b + n]
        return self.comparison.kernel.saturated(values).mean(dtype=values.dtype)

    def nearest(self) -> Tensor:
        """The distance of each sample to its nearest reference, with shape `(B,)`.

        It is divided by the spacing of the references.
        """
        found = _to_references(self.w.gram, len(self.comparison.weights)).amin(1).sqrt()
        return found / self.comparison.spacing

    @cached_property
    def _values(self) -> Tensor:
        """Kernel values between samples and [samples; rows z], with shape `(B, B + M)`."""
        return self.comparison.kernel.values(self.w.gram)
