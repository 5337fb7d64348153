"""The batch, the references and the finished samples as one signed measure, and its MMD² and gradient.

    MMD² = Σ u_a u_b κ_ab k(r_a, r_b)               over all rows r
    Ĝ_i  = unit · ∂MMD²/∂x_i / p_i = 2 Σ_b u_b κ_ib · unit · ∇₁k(x_i, r_b)

with weights u: p_i of B samples, −q_j of N references, positive ones of m finished samples; κ are the
prompt weights (1 without prompts). For the RBF kernel (unit h²) without memory Ĝ = h²·B·∂MMD²/∂x_i.
"""

from functools import cached_property

import torch
from torch import Tensor

from ..kernels.kernels import Gram, Kernel

__all__ = ["Coupling"]

BLOCK = 512  # rows whose kernel values are looked at together


class Coupling:
    """Signed weights of all rows, and prompt weights of pairs.

    Arguments:
        p: Weights of the samples, with shape `(B,)`.
        s: Weights of the rows z: −q of references, positive of finished samples, with shape `(M,)`.
        ww, wz, zz: Prompt weights κ, with shapes `(B, B)`, `(B, M)`, `(M, M)`; or None for 1.
    """

    def __init__(
        self,
        p: Tensor,
        s: Tensor,
        ww: Tensor | None = None,
        wz: Tensor | None = None,
        zz: Tensor | None = None,
    ):
        self.p, self.s, self.ww, self.wz, self.zz = p, s, ww, wz, zz

    @cached_property
    def pairs(self) -> Tensor:
        """u_b κ_ib of samples and all rows, with shape `(B, B + M)` or `(B + M,)`."""
        weights = torch.cat([self.p, self.s])
        return weights if self.ww is None else torch.cat([self.ww, self.wz], 1) * weights

    @cached_property
    def _downwards(self) -> Tensor:
        return -2 * self.pairs

    def velocity(self, kernel: Kernel, gram: Gram, in_units: bool = True) -> Tensor:
        """[L | F] with −Ĝ = L·w + F·z, with shape `(B, B + M)`.

        Arguments:
            gram: Inner products of the samples w with w and z.
            in_units: Whether to apply the kernel's unit; else unit is 1.
        """
        by = kernel.pulls(gram, in_units) * self._downwards
        if kernel.radial:
            # A row does not pull itself; stated, since the pull of a singular kernel is rounding noise there.
            diagonal = by.diagonal().zero_()
            diagonal.sub_(by.sum(1))
        return by

    def mmd2(self, values: Tensor, of_rows: Tensor) -> Tensor:
        """The biased MMD² between samples (finished ones included) and references.

        Arguments:
            values: Kernel values of the samples with w and z, with shape `(B, B + M)`.
            of_rows: `mmd2_of_rows`, which does not depend on the samples.
        """
        b = len(self.p)
        sums = (values * self.pairs).split([b, values.shape[1] - b], 1)
        return self.p @ (sums[0].sum(1) + 2 * sums[1].sum(1)) + of_rows

    def mmd2_of_rows(self, kernel: Kernel, gram: Tensor, index: Tensor) -> Tensor:
        """Σ s_a s_b κ_ab k(z_a, z_b).

        Arguments:
            gram: Inner products between rows z, with shape `(m, m)`.
            index: Which rows, with shape `(m,)`; if not all, references among them stand for all of these.
        """
        s = self.s[index]
        references = s < 0
        s = torch.where(references, s * (self.s.clamp_max(0).sum() / s[references].sum()), s)
        total, squares = s.new_zeros(()), gram.diagonal()
        for rows in torch.arange(len(s), device=s.device).split(BLOCK):
            values = kernel.values(Gram(gram[rows], squares[rows], squares))
            if self.zz is not None:
                values = values * self.zz[index[rows][:, None], index]
            total += s[rows] @ values @ s
        return total
