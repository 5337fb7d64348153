"""A batch compared with references by features, as rows of a Gram space."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from .config import KernelConfig
from .coupling import Coupling
from .feature_space import make_features
from .gram_space import Combination, GramSpace
from .kernels import Gram
from .mmd import mmd2_from_values, uniform
from .nearest import nearest_rows, spacing
from .patches import PatchEmbedding
from .schedule import NoiseModel

__all__ = ["Compared", "FeatureComparison", "comparable_rows"]


def comparable_rows(
    config: KernelConfig, references: Tensor, weights: Tensor
) -> tuple[Callable[[Tensor], Tensor], KernelConfig]:
    """What makes rows `(n, F)` of latents `(n, C, *)`, and the kernel that compares rows as `config` compares images.

    Arguments:
        references: With shape `(N, C, *)`.
        weights: Their weights, with shape `(N,)`, not negative.
    """
    if config.feature_space == "patches":
        rows = PatchEmbedding(config, references, weights)
        return rows, replace(config, kernel="linear", feature_space="latent")
    features = make_features(config.feature_space, references.shape[1:], config.pool)
    return lambda latents: features(latents).flatten(1), replace(config, feature_space="latent")


class FeatureComparison:
    """The features of references, and of finished samples, that a batch is compared with.

    Arguments:
        config: The kernel and the feature space.
        references: With shape `(N, C, *)`, fp32 or better.
        weights: Their weights, with shape `(N,)`, sum 1.
        noise: The model's noise.
        finished: Samples that count as drawn together with the batch, with shape `(m, C, *)`.
    """

    def __init__(
        self,
        config: KernelConfig,
        references: Tensor,
        weights: Tensor,
        noise: NoiseModel,
        finished: Tensor | None = None,
    ):
        self.weights = weights
        features = make_features(config.feature_space, references.shape[1:], config.pool)
        self.features = features.fit(references, weights, noise)
        self.posterior = self.features.whole
        rows = self.features(references)
        self.space = GramSpace(rows, weights, centred=config.radial)
        self.kernel = config.resolve(self.space.gram, rows[0].numel())
        if finished is not None:
            self.space = self.space.with_memory(self.features(finished))

    def start(self, x0: Tensor, x: Tensor, sigma: float) -> "Compared":
        """The batch as it is compared: estimates `x0` of noisy `x`."""
        seen, lacking = self.features.seen(x0, x, sigma)
        return Compared(self, x0, sigma, self.space.project(seen, lacking).start())

    def as_it_is(self, x: Tensor, sigma: float) -> "Compared":
        """Latents `x` that lack nothing."""
        return Compared(self, x, sigma, self.space.project(self.features(x)).start())

    @cached_property
    def kzz(self) -> Tensor:
        """Kernel values between all rows that a batch is compared with, with shape `(M, M)`."""
        return self.kernel.values(Gram.within(self.space.gram))

    @cached_property
    def spacing(self) -> float:
        """See `nearest.py`."""
        return spacing(self.space.rows[: len(self.weights)])

    def mmd2(self, x: Tensor, unbiased: bool) -> Tensor:
        """MMD² between finished latents `x` and the references."""
        n = len(self.weights)
        ww, wz = self.space.project(self.features(x.to(self.weights))).start().grams()
        kww, kwz = self.kernel.values(ww), self.kernel.values(wz)
        kzz = self.kzz[:n, :n]
        return mmd2_from_values(kww, kwz[:, :n], kzz, uniform(len(x), kww), self.weights, unbiased)

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Which reference is nearest to each of the finished latents `x`, and how far by the spacing."""
        rows = self.features(x.to(self.weights)).flatten(1) - self.space.centre
        index, distances = nearest_rows(rows, self.space.rows[: len(self.weights)])
        return index, distances / self.spacing


@dataclass(frozen=True, eq=False)
class Compared:
    """A batch as features on their way.

    Arguments:
        x0: The latents, with shape `(B, *shape)`.
        sigma: Their noise level.
        w: The features.
    """

    comparison: FeatureComparison
    x0: Tensor
    sigma: float
    w: Combination

    def flowed(self, coupling: Coupling, reach: float, substeps: int) -> "Compared":
        """w ← w − λ·Ĝ(w), in `substeps`."""
        w = self.w
        for _ in range(substeps):
            to_w, to_z = coupling.gradient(self.comparison.kernel, *w.grams())
            w = w.moved(-reach / substeps * to_w, -reach / substeps * to_z)
        return replace(self, w=w)

    def moved(self, to_w: Tensor, to_z: Tensor) -> "Compared":
        """w + to_w·w + to_z·z, with shapes `(B, B)` and `(B, M)`."""
        return replace(self, w=self.w.moved(to_w, to_z))

    def displacement(self) -> Tensor:
        """What moves the latents so that their features move as these did, with shape `(B, *shape)`."""
        return self.comparison.features.pull_back(self.x0, self.w.displacement(), self.sigma)

    def shortened(self, share: Tensor) -> "Compared":
        """With one share of the way for each sample, with shape `(B,)`."""
        return replace(self, w=self.w.shortened(share))

    def mmd2(self, coupling: Coupling) -> Tensor:
        """The biased MMD² between samples (finished ones included) and references."""
        kww, kwz = self._values
        return coupling.mmd2(kww, kwz, self.comparison.kzz)

    def saturated(self) -> Tensor:
        """The share of kernel values between samples and references that tell nothing."""
        _, kwz = self._values
        kernel, n = self.comparison.kernel, len(self.comparison.weights)
        return kernel.saturated(kwz[:, :n]).to(self.x0.dtype).mean()

    def nearest(self) -> Tensor:
        """The distance of each sample from its nearest reference by their spacing, with shape `(B,)`."""
        _, wz = self._grams
        distances = wz.sq_dist()[:, : len(self.comparison.weights)].amin(1).sqrt()
        return distances / self.comparison.spacing

    @cached_property
    def _grams(self) -> tuple[Gram, Gram]:
        return self.w.grams()

    @cached_property
    def _values(self) -> tuple[Tensor, Tensor]:
        """Kernel values of samples with themselves and with all rows."""
        ww, wz = map(self.comparison.kernel.values, self._grams)
        return ww, wz
