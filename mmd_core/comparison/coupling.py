"""Batch, references and finished samples as one signed measure, with its MMD² and gradient.

    MMD² = Σ u_a u_b κ_ab k(r_a, r_b)               over all rows r
    Ĝ_i  = unit · ∂MMD²/∂x_i / p_i = 2 Σ_b u_b κ_ib · unit · ∇_1k(x_i, r_b)

with weights u: p_i for B samples, −q_j for N references, and positive weights for m finished
samples. κ are the prompt weights (1 without prompts). For the RBF kernel (unit h²) without memory
Ĝ_i = h²·B·∂MMD²/∂x_i.
"""

from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..kernels.kernels import Gram, Kernel

__all__ = ["Coupling"]

BLOCK = 512  # rows whose kernel values are computed at once


class Coupling:
    """Signed weights of all rows, and prompt weights of pairs.

    Arguments:
        p: Weights of the samples, with shape `(B,)`.
        s: Weights of the rows z, with shape `(M,)`: −q for references, positive weights for
            finished samples.
        ww, wz, zz: Prompt weights κ, with shapes `(B, B)`, `(B, M)`, `(M, M)`; or None for 1.
    """

    resting = False

    def __init__(
        self,
        p: Tensor,
        s: Tensor,
        ww: Tensor | None = None,
        wz: Tensor | None = None,
        zz: Tensor | None = None,
    ) -> None:
        self.p, self.s, self.ww, self.wz, self.zz = p, s, ww, wz, zz

    def padded(self, rows: int) -> "Coupling":
        """With `rows` further rows z, whose weights are 0."""
        s, wz, zz = self.s, self.wz, self.zz
        if wz is not None and zz is not None:
            wz, zz = pad(wz, (0, rows)), pad(zz, (0, rows, 0, rows))
        return Coupling(self.p, pad(s, (0, rows)), self.ww, wz, zz)

    @cached_property
    def pairs(self) -> Tensor:
        """u_b κ_ib between samples i and all rows b, with shape `(B, B + M)`.

        Without prompts it is u_b, with shape `(B + M,)`.
        """
        weights = torch.cat([self.p, self.s])
        return weights if self.ww is None else torch.cat([self.ww, self.wz], 1) * weights

    @cached_property
    def _twice_z(self) -> Tensor:
        """`pairs` with the weights of the rows z doubled: these pairs count in both orders."""
        own, others = self.pairs.tensor_split([len(self.p)], -1)
        return torch.cat([own, 2 * others], -1)

    @cached_property
    def _downwards(self) -> Tensor:
        return -2 * self.pairs

    @cached_property
    def _downwards_of_others(self) -> Tensor:
        """`_downwards` of samples and all other rows, 0 for a sample and itself."""
        b = len(self.p)
        weights = self._downwards.expand(b, -1).clone()
        weights.diagonal().zero_()
        return weights

    def bounded(self, kernel: Kernel) -> bool:
        """Whether the coefficients of a sample are known to be small, 8 in sum at most."""
        return kernel.bounded and self.ww is None

    def velocity(self, kernel: Kernel, gram: Gram, in_units: bool = True) -> Tensor:
        """[L | F] with −Ĝ = L·w + F·z, with shape `(B, B + M)`.

        Arguments:
            kernel: The kernel between rows.
            gram: Inner products of the samples w with w and z.
            in_units: Whether to multiply by the kernel's unit.
        """
        pulls = kernel.pulls(gram, in_units)
        if not kernel.radial:
            return pulls * self._downwards
        # A row exerts no pull on itself, but a singular kernel would give rounding noise at
        # distance 0.
        by = pulls.mul_(self._downwards_of_others)
        by.diagonal().sub_(by.sum(1))
        return by

    def mmd2(self, values: Tensor, of_rows: Tensor) -> Tensor:
        """The biased MMD² between samples (finished ones included) and references, a scalar.

        Arguments:
            values: Kernel values of the samples with w and z, with shape `(B, B + M)`.
            of_rows: `mmd2_of_rows`, which does not depend on the samples.
        """
        weights = self._twice_z
        sums = values @ weights if weights.ndim == 1 else (values * weights).sum(1)
        return self.p @ sums + of_rows

    def mmd2_of_rows(self, kernel: Kernel, gram: Tensor, index: Tensor) -> Tensor:
        """Σ s_a s_b κ_ab k(z_a, z_b), over the rows z; a scalar.

        Arguments:
            kernel: The kernel between rows.
            gram: Inner products between the rows of `index`, with shape `(m, m)`.
            index: The rows of z to use, with shape `(m,)`. If it has only some of the references,
                their weights are scaled to the total weight of all references.
        """
        s = self.s[index]
        references = s < 0
        s = torch.where(references, s * (self.s.clamp_max(0).sum() / s.clamp_max(0).sum()), s)
        total, squares = s.new_zeros(()), gram.diagonal()
        for rows in torch.arange(len(s), device=s.device).split(BLOCK):
            values = kernel.values(Gram(gram[rows], squares[rows], squares))
            if self.zz is not None:
                values = values * self.zz[index[rows][:, None], index]
            total += s[rows] @ values @ s
        return total
