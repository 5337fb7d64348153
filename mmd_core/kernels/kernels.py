"""Kernels between rows, which are flattened latents or features.

The gradient of a kernel is a linear combination of rows. A kernel has two functions: its values,
and a matrix of *pulls*, the coefficients of its gradient. Both depend on inner products only:

    radial       k(x, z) = φ(‖x − z‖² / h²)      ∇_1k(x, z) = pull · (z − x)
    dot product  k(x, z) = ψ(x·z)                ∇_1k(x, z) = pull · z

Once the inner products are known, the cost does not depend on D, the number of entries of a row.
With several bandwidths h (length scales) the kernel is the mean of the kernels k_h.

Raw gradients are small, and their scale depends on the kernel. `unit` scales them to displacements
of a latent: unit · ∇_1k is of the order of `z − x` for every kernel and model. Therefore one
guidance strength suits all of them. For the RBF kernel the unit is h².
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .quoted import quoted
from .transfers import placed

__all__ = ["DotKernel", "Gram", "Kernel", "RADIAL_PROFILES", "RadialKernel", "polynomial"]


STACKED = 2**21  # numbers up to which a GPU computes all bandwidths at once


class Gram(NamedTuple):
    """Inner products between n rows `x` and m rows `z`: the only input that a kernel needs.

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
        """The `Gram` of n rows with themselves; the distance of a row to itself is exactly 0.

        Arguments:
            dot: The inner products of the rows, with shape `(n, n)`.
        """
        return cls(dot, dot.diagonal(), dot.diagonal())

    def sq_dist(self) -> Tensor:
        """‖x_i − z_j‖², with shape `(n, m)`; never negative."""
        squares = self.sq_x[:, None] + self.sq_z
        return squares.sub_(self.dot, alpha=2).clamp_min_(0)


class RadialProfile(NamedTuple):
    """One family of radial kernels in d² = ‖x − z‖² and h.

    Arguments:
        scale: The number s in which h enters `value` and `pull`, as a function of h.
        value: k as a function of `(d², s)`; s may be a tensor, with one number for each bandwidth.
        pull: unit(h) · pull as a function of `(d², s)`.
        unit: The factor that scales the gradient to a displacement, as a function of `h`.
        most: The largest value of `pull`.
    """

    scale: Callable[[float], float]
    value: Callable[[Tensor, float | Tensor], Tensor]
    pull: Callable[[Tensor, float | Tensor], Tensor]
    unit: Callable[[float], float]
    most: float = math.inf


def _inverse(d2: Tensor, s: float | Tensor) -> Tensor:
    """h/d, bounded where two rows coincide. The bound has no effect there, because z − x is 0."""
    return (d2 * s).clamp_min_(torch.finfo(d2.dtype).eps).rsqrt_()


def _laplacian_pull(d2: Tensor, s: float | Tensor) -> Tensor:
    """exp(−d/h) · h/d, bounded as in `_inverse`."""
    u = d2.sqrt() * s  # −d/h
    return u.exp() / u.neg().clamp_min(torch.finfo(d2.dtype).eps ** 0.5)


RADIAL_PROFILES = {
    # exp(−d²/2h²)
    "rbf": RadialProfile(
        scale=lambda h: -0.5 / h**2,
        value=lambda d2, s: (d2 * s).exp_(),
        pull=lambda d2, s: (d2 * s).exp_(),
        unit=lambda h: h**2,
        most=1.0,
    ),
    # (1 + d²/h²)^(−1/2)
    "imq": RadialProfile(
        scale=lambda h: h**-2,
        value=lambda d2, s: (d2 * s).add_(1).rsqrt_(),
        pull=lambda d2, s: (d2 * s).add_(1).pow_(-1.5),
        unit=lambda h: h**2,
        most=1.0,
    ),
    # exp(−d/h)
    "laplacian": RadialProfile(
        scale=lambda h: -1 / h,
        value=lambda d2, s: (d2.sqrt() * s).exp_(),
        pull=_laplacian_pull,
        unit=lambda h: h**2,
    ),
    # −d: MMD² with this kernel is the energy distance; h only sets the unit
    "energy": RadialProfile(
        scale=lambda h: h**-2,
        value=lambda d2, s: -d2.sqrt(),
        pull=_inverse,
        unit=lambda h: h,
    ),
}


@dataclass(frozen=True)
class RadialKernel:
    """A radial kernel, or the mean of radial kernels over several bandwidths.

    Arguments:
        name: One of `RADIAL_PROFILES`.
        bandwidths: One or several length scales h, positive and finite.
        scales: s of all bandwidths, with shape `(k, 1, 1)`, on the device that computes: then it
            computes all of them at once (`on`). None: one after the other.

    Raises:
        ValueError: The name is unknown, there is no bandwidth, or a bandwidth is not positive and
            finite.
    """

    name: str = "rbf"
    bandwidths: tuple[float, ...] = (1.0,)
    scales: Tensor | None = field(default=None, compare=False, repr=False)

    radial = True

    def on(self, like: Tensor) -> "RadialKernel":
        """The same kernel for the device of `like`.

        A GPU is faster with one matrix for all bandwidths; those of a CPU do not fit in its cache.
        """
        if self.name == "energy":  # its pull in units is proportional to the bandwidth
            return replace(self, bandwidths=(sum(self.bandwidths) / len(self.bandwidths),))
        if like.device.type == "cpu" or len(self.bandwidths) == 1:
            return self
        scale = RADIAL_PROFILES[self.name].scale
        scales = torch.tensor([[[scale(h)]] for h in self.bandwidths], dtype=like.dtype)
        return replace(self, scales=placed(scales, like))

    @property
    def bounded(self) -> bool:
        """Whether no pull, in units, exceeds 1."""
        return RADIAL_PROFILES[self.name].most <= 1

    @property
    def singular(self) -> bool:
        """Whether the pull between two rows grows without bound as their distance goes to 0."""
        return self.name in ("laplacian", "energy")

    def __post_init__(self) -> None:
        if self.name not in RADIAL_PROFILES:
            raise ValueError(
                f"unknown kernel {quoted(self.name)}: choose one of {', '.join(RADIAL_PROFILES)}"
            )
        if not self.bandwidths or not all(0 < h < float("inf") for h in self.bandwidths):
            raise ValueError(f"kernel bandwidths must be positive numbers, not {self.bandwidths}")

    def values(self, gram: Gram) -> Tensor:
        """Kernel values k(x_i, z_j), with shape `(n, m)`."""
        return self._mean(RADIAL_PROFILES[self.name].value, gram.sq_dist())

    def pulls(self, gram: Gram, in_units: bool = False) -> Tensor:
        """Pulls p with ∇_1k(x_i, z_j) = p_ij (z_j − x_i), with shape `(n, m)`.

        `in_units` multiplies the pull of each bandwidth by its `unit` before the mean is taken.
        """
        profile, d2 = RADIAL_PROFILES[self.name], gram.sq_dist()
        if in_units:
            return self._mean(profile.pull, d2)
        each = [profile.pull(d2, profile.scale(h)) / profile.unit(h) for h in self.bandwidths]
        return sum(each[1:], each[0]) / len(each)

    def _mean(self, of: Callable[[Tensor, float | Tensor], Tensor], d2: Tensor) -> Tensor:
        """The mean over bandwidths of a function of `(d², s)`."""
        if self.scales is not None and d2.numel() <= STACKED:
            return of(d2, self.scales.to(d2.dtype)).mean(0)
        scale = RADIAL_PROFILES[self.name].scale
        # One after the other, because the matrices of all do not fit in CPU cache.
        total = of(d2, scale(self.bandwidths[0]))
        for h in self.bandwidths[1:]:
            total = total + of(d2, scale(h))
        return total if len(self.bandwidths) == 1 else total / len(self.bandwidths)

    def saturated(self, values: Tensor) -> Tensor:
        """Which kernel values carry no information, as booleans with the shape of `values`.

        The two rows are then too far apart, or too close, for all bandwidths.
        """
        if self.name == "energy":  # its values have no bounds
            return torch.zeros_like(values, dtype=torch.bool)
        return values.clamp(1e-6, 0.99) != values


@dataclass(frozen=True)
class DotKernel:
    """(x·z / width + offset)^degree; degree 1, width 1 and offset 0 is the linear kernel x·z.

    Arguments:
        degree: The power p, at least 1.
        width: The divisor of x·z, usually D; above 0.
        offset: The constant c.
        unit: The factor that scales the gradient to a displacement.

    Raises:
        ValueError: The degree is below 1, or the width is not positive.
    """

    degree: int = 1
    width: float = 1.0
    offset: float = 0.0
    unit: float = 1.0

    radial = singular = bounded = False

    def on(self, like: Tensor) -> "DotKernel":
        """The same kernel for the device of `like`."""
        return self

    def __post_init__(self) -> None:
        if self.degree < 1 or self.width <= 0:
            raise ValueError(
                "a polynomial kernel needs a degree of at least 1 and a positive width"
            )

    def values(self, gram: Gram) -> Tensor:
        """Kernel values k(x_i, z_j), with shape `(n, m)`."""
        return (gram.dot / self.width + self.offset).pow(self.degree)

    def pulls(self, gram: Gram, in_units: bool = False) -> Tensor:
        """Pulls p with ∇_1k(x_i, z_j) = p_ij z_j, with shape `(n, m)`.

        `in_units` multiplies them by `unit`.
        """
        t = gram.dot / self.width + self.offset
        return (self.unit if in_units else 1.0) * self.degree / self.width * t.pow(self.degree - 1)

    def saturated(self, values: Tensor) -> Tensor:
        """False for all `values`, because the values of this kernel have no bounds."""
        return torch.zeros_like(values, dtype=torch.bool)


Kernel = RadialKernel | DotKernel


def polynomial(dim: int, degree: int = 3, offset: float = 1.0, sq_norm: float = 0.0) -> DotKernel:
    """The polynomial kernel (x·z/D + c)^p.

    Degree 3 and offset 1 give the kernel of the Kernel Inception Distance.

    Arguments:
        dim: The number D of entries of a row.
        degree: The power p, at least 1.
        offset: The constant c.
        sq_norm: The mean ‖y‖² of the references. It sets the unit so that a pull between two
            typical rows is about 1.

    References:
        Bińkowski, Sutherland, Arbel, Gretton, Demystifying MMD GANs, ICLR 2018.
        https://arxiv.org/abs/1801.01401
    """
    typical = sq_norm / dim + offset
    return DotKernel(degree, dim, offset, unit=dim / (degree * typical ** (degree - 1)))
