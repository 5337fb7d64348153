"""Functions f(x) = c + Σ_j a_j k(x, y_j) of latents, with gradients in closed form."""

import torch
from torch import Tensor

from ..comparison.feature_maps import Features, Whole
from ..kernels.kernels import Gram, Kernel
from ..kernels.precision import full_precision

__all__ = ["KernelExpansion"]


class KernelExpansion:
    """A kernel expansion. The witness function and the kernel regression are of this form.

    Arguments:
        kernel: k.
        rows: Features of the centers y_j, with shape `(m, F)`.
        coefficients: a_j, with shape `(m,)`.
        constant: c.
        features: The feature map of latents; None is the identity.
    """

    def __init__(
        self,
        kernel: Kernel,
        rows: Tensor,
        coefficients: Tensor,
        constant: float = 0.0,
        features: Features | None = None,
    ) -> None:
        self.kernel, self.coefficients, self.constant = kernel, coefficients, constant
        self.features = features or Whole()
        # Distances from inner products lose digits far from the origin. So rows are centered for
        # radial kernels; the values of other kernels depend on the origin.
        self.origin = rows.mean(0) if kernel.radial else torch.zeros_like(rows[0])
        self.rows = rows - self.origin
        self._squares = self.rows.square().sum(1)

    @full_precision()
    def values(self, x: Tensor) -> Tensor:
        """k(x_i, y_j) of latents `(B, *)`, with shape `(B, m)`."""
        return self.kernel.values(self._gram(self._centered(x)))

    @full_precision()
    def value(self, x: Tensor) -> Tensor:
        """f of latents `(B, *)`, with shape `(B,)`."""
        return self.values(x) @ self.coefficients + self.constant

    @full_precision()
    def gradient(self, x: Tensor) -> Tensor:
        """∇f, with the shape of `x`."""
        centered = self._centered(x)
        pulls = self.kernel.pulls(self._gram(centered)) * self.coefficients
        gradient = pulls @ self.rows
        if self.kernel.radial:
            gradient = gradient.addcmul_(pulls.sum(1, keepdim=True), centered, value=-1)
        x_ = x.to(self.rows)
        shape = self.features(x_[:1]).shape[1:]
        return self.features.pull_back(x_, gradient.unflatten(1, shape)).to(x)

    def _centered(self, x: Tensor) -> Tensor:
        """Features relative to `origin`, with shape `(B, F)`."""
        return self.features(x.to(self.rows)).flatten(1) - self.origin

    def _gram(self, centered: Tensor) -> Gram:
        return Gram(centered @ self.rows.T, centered.square().sum(1), self._squares)
