"""The batch, the references and the finished samples as one signed measure, and its MMD² and gradient.

    MMD² = Σ u_a u_b κ_ab k(r_a, r_b)               over all rows r
    Ĝ_i  = unit · ∂MMD²/∂x_i / p_i = 2 Σ_b u_b κ_ib · unit · ∇₁k(x_i, r_b)

with weights u: p_i of B samples, −q_j of N references, positive ones of m finished samples; κ are the
prompt weights (1 without prompts). For the RBF kernel (unit h²) without memory Ĝ = h²·B·∂MMD²/∂x_i.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .kernels import Gram, Kernel
from .mmd import self_pulls

__all__ = ["Coupling"]


class Coupling(NamedTuple):
    """Signed weights of all rows, and prompt weights of pairs.

    Arguments:
        p: Weights of the samples, with shape `(B,)`.
        s: Weights of the rows z: −q of references, positive of finished samples, with shape `(M,)`.
        ww, wz, zz: Prompt weights κ, with shapes `(B, B)`, `(B, M)`, `(M, M)`; or None for 1.
    """

    p: Tensor
    s: Tensor
    ww: Tensor | None = None
    wz: Tensor | None = None
    zz: Tensor | None = None

    def gradient(
        self, kernel: Kernel, ww: Gram, wz: Gram, in_units: bool = True
    ) -> tuple[Tensor, Tensor]:
        """(to_w, to_z) with Ĝ = to_w·w + to_z·z, with shapes `(B, B)` and `(B, M)`.

        Arguments:
            ww, wz: Inner products of the samples w with themselves and with the rows z.
            in_units: Whether to apply the kernel's unit; else unit is 1.
        """
        to_w = 2 * _times(self_pulls(kernel, ww, in_units), self.ww) * self.p
        to_z = 2 * _times(kernel.pulls(wz, in_units), self.wz) * self.s
        if kernel.radial:
            to_w = to_w - torch.diag(to_w.sum(1) + to_z.sum(1))
        return to_w, to_z

    def mmd2(self, kww: Tensor, kwz: Tensor, kzz: Tensor) -> Tensor:
        """The biased MMD² between samples (finished ones included) and references.

        Arguments:
            kww, kwz, kzz: Kernel values, with shapes `(B, B)`, `(B, M)`, `(M, M)`.
        """
        kww, kwz, kzz = _times(kww, self.ww), _times(kwz, self.wz), _times(kzz, self.zz)
        return self.p @ kww @ self.p + 2 * (self.p @ kwz @ self.s) + self.s @ kzz @ self.s


def _times(values: Tensor, weights: Tensor | None) -> Tensor:
    return values if weights is None else values * weights
