"""The Gram-space engine: guidance that touches the D numbers of a latent twice per model call.

Every gradient in this package is a linear combination of rows, so a sample that follows it stays one:

    w = A·x + C·z        A: (B, B), C: (B, M), z: the references and the finished samples

Inner products among x and z (one GEMM in) are all that kernels need; any number of sub-steps,
bandwidths and prompt weights then runs on B×M matrices, and a second GEMM forms w.
"""

import torch
from torch import Tensor

from .kernels import Gram

__all__ = ["Combination", "GramSpace", "Projection"]


class GramSpace:
    """Rows z that samples are compared with: N references, then m finished samples (the memory).

    Arguments:
        references: Reference latents, with shape `(N, *shape)`, fp32 or better.
        weights: Their weights, with shape `(N,)`, sum 1.
        centred: Whether to keep rows relative to the references' mean: distances do not change, and
            keep their digits.
    """

    def __init__(self, references: Tensor, weights: Tensor, centred: bool = True):
        rows = references.flatten(1)
        self.centre = weights @ rows if centred else torch.zeros_like(rows[0])
        self.rows = rows - self.centre
        self.gram = self.rows @ self.rows.T

    def with_memory(self, memory: Tensor) -> "GramSpace":
        """This space with finished samples, with shape `(m, *shape)`, after the references."""
        added = memory.flatten(1) - self.centre
        across = self.rows @ added.T
        space = object.__new__(GramSpace)
        space.centre = self.centre
        space.rows = torch.cat([self.rows, added])
        space.gram = torch.cat(
            [torch.cat([self.gram, across], 1), torch.cat([across.T, added @ added.T], 1)]
        )
        return space

    def project(self, x: Tensor, lacking: float = 0.0) -> "Projection":
        """Samples `x`, with shape `(B, *shape)`, seen from this space; `lacking` as in `posterior.py`."""
        return Projection(self, x, lacking)


class Projection:
    """Samples x in a Gram space: inner products in, combinations out.

    Attributes:
        xx: x_i · x_i', with shape `(B, B)`.
        xz: x_i · z_j, with shape `(B, M)`.
        zz: z_j · z_j', with shape `(M, M)`.
        lacking: The squared norm of what every sample has besides x, orthogonal to all rows.
    """

    def __init__(self, space: GramSpace, x: Tensor, lacking: float = 0.0):
        self.space, self.shape, self.lacking = space, x.shape, lacking
        self.x = x.flatten(1) - space.centre
        self.xx = self.x @ self.x.T
        self.xz = self.x @ space.rows.T
        self.zz = space.gram

    def start(self) -> "Combination":
        """The samples themselves: A = 1, C = 0."""
        eye = torch.eye(len(self.x), dtype=self.x.dtype, device=self.x.device)
        return Combination(self, eye, torch.zeros_like(self.xz))


class Combination:
    """Samples w = A·x + C·z.

    Arguments:
        a: A, with shape `(B, B)`.
        c: C, with shape `(B, M)`.
    """

    def __init__(self, projection: Projection, a: Tensor, c: Tensor):
        self.projection, self.a, self.c = projection, a, c

    def grams(self) -> tuple[Gram, Gram]:
        """The inner products of w with itself and with z."""
        p = self.projection
        wx = self.a @ p.xx + self.c @ p.xz.T  # (B, B)
        wz = self.a @ p.xz + self.c @ p.zz  # (B, M)
        ww = wx @ self.a.T + wz @ self.c.T  # (B, B)
        ww.diagonal().add_(p.lacking)
        return Gram.within(ww), Gram(wz, ww.diagonal(), p.zz.diagonal())

    def moved(self, to_w: Tensor, to_z: Tensor) -> "Combination":
        """w + to_w·w + to_z·z, with shapes `(B, B)` and `(B, M)`."""
        return Combination(self.projection, self.a + to_w @ self.a, self.c + to_w @ self.c + to_z)

    def shortened(self, share: Tensor) -> "Combination":
        """x + share·(w − x), with one share of the way for each sample, with shape `(B,)`."""
        eye = torch.eye(len(self.a), dtype=self.a.dtype, device=self.a.device)
        a, c = eye + share[:, None] * (self.a - eye), share[:, None] * self.c
        return Combination(self.projection, a, c)

    def displacement(self) -> Tensor:
        """w − x as latents, with shape `(B, *shape)`."""
        p = self.projection
        eye = torch.eye(len(self.a), dtype=self.a.dtype, device=self.a.device)
        return torch.addmm(self.c @ p.space.rows, self.a - eye, p.x).reshape(p.shape)
