"""Kernels, written so that every gradient is a linear combination of rows.

A kernel is given by its values and by one matrix of *pulls*, both functions of inner products only:

    radial       k(x, z) = φ(‖x − z‖² / h²)      ∇₁k(x, z) = pull · (z − x)
    dot product  k(x, z) = ψ(x·z)                ∇₁k(x, z) = pull · z

so neither ever touches the D numbers of a latent. Several bandwidths h (length scales) at once mean
the average of the kernels: k = mean over h of k_h.

Raw gradients are tiny and depend on the kernel. `unit` scales them to displacements of a latent:
unit · ∇₁k is at most about `z − x`, whatever the kernel and the model, so that one strength fits all.
For the RBF kernel the unit is h² (see `guidance.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DotKernel", "Gram", "Kernel", "RADIAL_PROFILES", "RadialKernel", "polynomial"]


class Gram(NamedTuple):
    """Inner products between n rows `x` and m rows `z`: all that a kernel needs to know of them.

    Arguments:
        dot: x_i · z_j, with shape `(n, m)`.
        sq_x: ‖x_i‖², with shape `(n,)`.
        sq_z: ‖z_j‖², with shape `(m,)`.
    """

    dot: Tensor
    sq_x: Tensor
    sq_z: Tensor

    @classmethod
    def of(cls, x: Tensor, z: Tensor) -> "Gram":
        """The inner products of rows `x`, with shape `(n, D)`, and `z`, with shape `(m, D)`."""
        return cls(x @ z.T, x.square().sum(1), z.square().sum(1))

    @classmethod
    def within(cls, dot: Tensor) -> "Gram":
        """From the inner products of rows with themselves: a row's distance to itself is exactly 0."""
        return cls(dot, dot.diagonal(), dot.diagonal())

    def sq_dist(self) -> Tensor:
        """‖x_i − z_j‖², with shape `(n, m)`; never negative."""
        squares = self.sq_x[:, None] + self.sq_z
        return squares.sub_(self.dot, alpha=2).clamp_min_(0)


class RadialProfile(NamedTuple):
    """One family of radial kernels in d² = ‖x − z‖² and h.

    Arguments:
        value: k as a function of `(d², h)`.
        pull: unit(h) · pull as a function of `(d², h)`.
        unit: What makes the gradient a displacement, as a function of `h`.
    """

    value: Callable[[Tensor, float], Tensor]
    pull: Callable[[Tensor, float], Tensor]
    unit: Callable[[float], float]


def _inverse(d2: Tensor, h: float) -> Tensor:
    """h/d, bounded where two rows coincide: there the direction z − x vanishes anyway."""
    return (d2 * h**-2).clamp_min_(torch.finfo(d2.dtype).eps).rsqrt_()


RADIAL_PROFILES = {
    # exp(−d²/2h²)
    "rbf": RadialProfile(
        value=lambda d2, h: (d2 * (-0.5 / h**2)).exp_(),
        pull=lambda d2, h: (d2 * (-0.5 / h**2)).exp_(),
        unit=lambda h: h**2,
    ),
    # (1 + d²/h²)^(−1/2)
    "imq": RadialProfile(
        value=lambda d2, h: (d2 * h**-2 + 1).rsqrt_(),
        pull=lambda d2, h: (d2 * h**-2 + 1).rsqrt_().pow_(3),
        unit=lambda h: h**2,
    ),
    # exp(−d/h)
    "laplacian": RadialProfile(
        value=lambda d2, h: (d2.sqrt() * (-1 / h)).exp_(),
        pull=lambda d2, h: (d2.sqrt() * (-1 / h)).exp_() * _inverse(d2, h),
        unit=lambda h: h**2,
    ),
    # −d: its MMD² is the energy distance; h only sets the unit
    "energy": RadialProfile(
        value=lambda d2, h: -d2.sqrt(),
        pull=_inverse,
        unit=lambda h: h,
    ),
}


@dataclass(frozen=True)
class RadialKernel:
    """The average over bandwidths of one radial kernel.

    Arguments:
        name: One of `RADIAL_PROFILES`.
        bandwidths: Length scales h, in ]0, ∞[, one or several.

    Raises:
        ValueError: An unknown name, no bandwidth, or one that is not positive.
    """

    name: str = "rbf"
    bandwidths: tuple[float, ...] = (1.0,)

    radial = True

    @property
    def singular(self) -> bool:
        """Whether the pull between two rows grows without bound as they meet."""
        return self.name in ("laplacian", "energy")

    def __post_init__(self):
        if self.name not in RADIAL_PROFILES:
            raise ValueError(
                f"unknown kernel {self.name!r}: choose one of {', '.join(RADIAL_PROFILES)}"
            )
        if not self.bandwidths or not all(0 < h < float("inf") for h in self.bandwidths):
            raise ValueError(f"kernel bandwidths must be positive numbers, not {self.bandwidths}")

    def values(self, gram: Gram) -> Tensor:
        """k(x_i, z_j), with shape `(n, m)`."""
        value, d2 = RADIAL_PROFILES[self.name].value, gram.sq_dist()
        return self._mean(lambda h: value(d2, h))

    def pulls(self, gram: Gram, in_units: bool = False) -> Tensor:
        """p with ∇₁k(x_i, z_j) = p_ij (z_j − x_i), with shape `(n, m)`; `in_units` scales it by `unit`."""
        profile, d2 = RADIAL_PROFILES[self.name], gram.sq_dist()
        if in_units:
            return self._mean(lambda h: profile.pull(d2, h))
        return self._mean(lambda h: profile.pull(d2, h) / profile.unit(h))

    def _mean(self, of: Callable[[float], Tensor]) -> Tensor:
        """Over bandwidths, one after the other: together they would not stay near the processor."""
        total = of(self.bandwidths[0])
        for h in self.bandwidths[1:]:
            total = total + of(h)
        return total if len(self.bandwidths) == 1 else total / len(self.bandwidths)

    def saturated(self, values: Tensor) -> Tensor:
        """Which `values` tell nothing: two rows so far apart, or so near, that all bandwidths take them alike."""
        if self.name == "energy":  # it has no bounds
            return torch.zeros_like(values, dtype=torch.bool)
        return (values < 1e-6) | (values > 0.99)


@dataclass(frozen=True)
class DotKernel:
    """(x·z / width + offset)^degree; degree 1, width 1 and offset 0 is the linear kernel x·z.

    Arguments:
        degree: The power p, at least 1.
        width: What x·z is divided by, usually D.
        offset: The constant c.
        unit: Scales the gradient to a displacement, see the module's docstring.
    """

    degree: int = 1
    width: float = 1.0
    offset: float = 0.0
    unit: float = 1.0

    radial = singular = False

    def __post_init__(self):
        if self.degree < 1 or self.width <= 0:
            raise ValueError(
                "a polynomial kernel needs a degree of at least 1 and a positive width"
            )

    def values(self, gram: Gram) -> Tensor:
        """k(x_i, z_j), with shape `(n, m)`."""
        return (gram.dot / self.width + self.offset).pow(self.degree)

    def pulls(self, gram: Gram, in_units: bool = False) -> Tensor:
        """p with ∇₁k(x_i, z_j) = p_ij z_j, with shape `(n, m)`; `in_units` scales it by `unit`."""
        t = gram.dot / self.width + self.offset
        return (self.unit if in_units else 1.0) * self.degree / self.width * t.pow(self.degree - 1)

    def saturated(self, values: Tensor) -> Tensor:
        """None of `values`: a product has no bounds."""
        return torch.zeros_like(values, dtype=torch.bool)


Kernel = RadialKernel | DotKernel


def polynomial(dim: int, degree: int = 3, offset: float = 1.0, sq_norm: float = 0.0) -> DotKernel:
    """The kernel (x·z/D + c)^p; degree 3 and offset 1 is that of the Kernel Inception Distance.

    Arguments:
        dim: The number D of a latent's entries.
        sq_norm: The references' mean ‖y‖²; sets the unit such that a pull between two typical rows is
            about 1.
    """
    typical = sq_norm / dim + offset
    return DotKernel(degree, dim, offset, unit=dim / (degree * typical ** (degree - 1)))
