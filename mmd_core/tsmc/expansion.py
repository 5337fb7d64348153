"""Functions f(x) = c + Σ_j a_j k(x, y_j) of latents, with their gradients in closed form."""

from dataclasses import dataclass

from torch import Tensor

from ..feature_space import Features, Whole
from ..kernels import Gram, Kernel
from ..precision import full_precision

__all__ = ["KernelExpansion"]


@dataclass(frozen=True, eq=False)
class KernelExpansion:
    """A kernel expansion: a witness function, or a kernel regression.

    Arguments:
        kernel: k.
        rows: Features of the centers y_j, with shape `(m, F)`.
        coefficients: a_j, with shape `(m,)`.
        constant: c.
        features: What of latents is compared.
    """

    kernel: Kernel
    rows: Tensor
    coefficients: Tensor
    constant: float = 0.0
    features: Features = Whole()

    @full_precision()
    def values(self, x: Tensor) -> Tensor:
        """k(x_i, y_j) of latents `(B, *)`, with shape `(B, m)`."""
        return self.kernel.values(self._gram(self._rows(x)))

    def value(self, x: Tensor) -> Tensor:
        """f of latents `(B, *)`, with shape `(B,)`."""
        return self.values(x) @ self.coefficients + self.constant

    @full_precision()
    def gradient(self, x: Tensor) -> Tensor:
        """∇f, with the shape of `x`."""
        x_, rows = x.to(self.rows), self._rows(x)
        pulls = self.kernel.pulls(self._gram(rows)) * self.coefficients
        gradient = pulls @ self.rows
        if self.kernel.radial:
            gradient = gradient - pulls.sum(1, keepdim=True) * rows
        shape = self.features(x_).shape
        return self.features.pull_back(x_, gradient.reshape(shape)).to(x)

    def _rows(self, x: Tensor) -> Tensor:
        return self.features(x.to(self.rows)).flatten(1)

    def _gram(self, rows: Tensor) -> Gram:
        if not self.kernel.radial:
            return Gram.of(rows, self.rows)
        mean = self.rows.mean(0)  # distances from inner products are exact only near the origin
        return Gram.of(rows - mean, self.rows - mean)

    def to(self, device) -> "KernelExpansion":
        """The same on another device."""
        return KernelExpansion(
            self.kernel,
            self.rows.to(device),
            self.coefficients.to(device),
            self.constant,
            self.features,
        )
