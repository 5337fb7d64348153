"""The witness function of MMD as a reward."""

from dataclasses import replace

import torch
from torch import Tensor

from ..comparison.feature_maps import make_features
from ..kernels.config import KernelConfig
from ..kernels.precision import full_precision
from .expansion import KernelExpansion

__all__ = ["Witness"]


class Witness:
    """The witness function of MMD: w(x) = Σ_j q_j k(x, y_j) − mean_i k(x, x_i).

    It is large where the references are denser than the samples x_i, which the model draws without
    steering. These samples do not change, so the reward is a fixed function.

    Arguments:
        config: The kernel and the feature space; the prompt kernel is not used.
        y: References, with shape `(N, *)`.
        weights: q, with shape `(N,)`, sum 1.
        base: The samples x_i, with shape `(n, *)`.

    Raises:
        ValueError: The feature space is `patches`.

    References:
        Gretton et al., A Kernel Two-Sample Test, JMLR 2012, section 2.3. https://jmlr.org/papers/v13/gretton12a.html
    """

    @full_precision()
    def __init__(self, config: KernelConfig, y: Tensor, weights: Tensor, base: Tensor) -> None:
        if config.feature_space == "patches":
            raise ValueError(
                "patches cannot score whole images: set feature_space of MMDKernel to latent, "
                "low_pass or palette"
            )
        features = make_features(config.feature_space, y.shape[1:], config.pool)
        references = features(y).flatten(1)
        compared = replace(config, feature_space="latent")
        rows = torch.cat([references, features(base.to(y)).flatten(1)])
        # The bandwidth needs distances. A single reference has none, so the base samples are added.
        known = references if len(references) > 1 else rows
        centre = known.mean(0) if config.radial else torch.zeros_like(known[0])
        centered = known - centre
        kernel = compared.resolve(centered @ centered.T, references.shape[1], centre)
        share = references.new_full((len(base),), -1 / len(base))
        coefficients = torch.cat([weights.to(references), share])
        self.base, self.expansion = base, KernelExpansion(kernel, rows, coefficients, 0.0, features)

    def value(self, x: Tensor) -> Tensor:
        """w of latents `(B, *)`, with shape `(B,)`."""
        return self.expansion.value(x)

    def gradient(self, x: Tensor) -> Tensor:
        """∇w, with the shape of `x`."""
        return self.expansion.gradient(x)

    @full_precision()
    def of_base(self) -> Tensor:
        """w of the base samples, with shape `(n,)`, without the term k(x_i, x_i).

        This term would make the value too low. The value of a new sample has no such term.
        """
        n = len(self.base)
        if n < 2:
            return self.value(self.base)
        values = self.expansion.values(self.base)
        references, others = values[:, :-n], values[:, -n:]
        among = (others.sum(1) - others.diagonal()) / (n - 1)
        return references @ self.expansion.coefficients[:-n] - among
