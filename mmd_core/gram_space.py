"""The Gram-space engine: guidance that touches the D numbers of a latent twice per model call.

Every gradient in this package is a linear combination of rows, so a sample that follows it stays one:

    w = A·x + C·z        A: (B, B), C: (B, M), z: the references and the finished samples

Inner products among x and z (one GEMM in) are all that kernels need; any number of sub-steps,
bandwidths and prompt weights then runs on B×M matrices, and a second GEMM forms w.
"""

import torch
from torch import Tensor

from .kernels import Gram
from .spectrum import Spectrum

__all__ = ["Combination", "GramSpace", "Projection"]


class GramSpace:
    """Rows z that samples are compared with: N references, then m finished samples (the memory).

    Rows are kept relative to the references' mean if `centred`: distances do not change, and keep
    their digits. With `matched`, deviations from that mean shrink with the noise (see `spectrum.py`).

    Arguments:
        references: Reference latents, with shape `(N, *shape)`, fp32 or better.
        weights: Their weights, with shape `(N,)`, sum 1.
        matched: Whether the rows are matched to the noise level; implies `centred`.
    """

    def __init__(
        self, references: Tensor, weights: Tensor, centred: bool = True, matched: bool = False
    ):
        self.matched = matched
        self.spectrum = Spectrum(references.shape[1:], references.device, references.dtype)
        rows = self._rows(references)
        self.centre = weights @ rows if centred or matched else torch.zeros_like(rows[0])
        self.rows = rows - self.centre
        if matched:
            self.variances = self.spectrum.variances(self.rows, weights)
        self.gram = self._banded_gram(self.rows, self.rows)

    def with_memory(self, memory: Tensor) -> "GramSpace":
        """This space with finished samples, with shape `(m, *shape)`, after the references."""
        space = object.__new__(GramSpace)
        space.__dict__.update(self.__dict__)
        added = self._rows(memory) - self.centre
        space.rows = torch.cat([self.rows, added])
        across = self._banded_gram(self.rows, added)
        within = self._banded_gram(added, added)
        space.gram = torch.cat(
            [torch.cat([self.gram, across], 2), torch.cat([across.mT, within], 2)], 1
        )
        return space

    def project(self, x: Tensor, level: float = 0.0) -> "Projection":
        """The inner products of samples `x`, with shape `(B, *shape)`, at noise `level` σ with all rows."""
        return Projection(self, self._rows(x) - self.centre, level)

    def shrinkage(self, level: float) -> Tensor:
        """√W of every band at noise `level`, with shape `(bands,)`."""
        return (self.variances / (self.variances + level**2)).nan_to_num(1.0).sqrt()

    def _rows(self, x: Tensor) -> Tensor:
        return self.spectrum.forward(x) if self.matched else x.flatten(1)

    def _banded_gram(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner products per band, with shape `(bands, n, m)`; one band where nothing is matched."""
        if not self.matched:
            return (a @ b.T)[None]
        bands = range(self.spectrum.bands)
        columns = [(self.spectrum.band == i).nonzero().flatten() for i in bands]
        return torch.stack([a[:, c] @ b[:, c].T for c in columns])


class Projection:
    """Samples x in a Gram space: inner products in, combinations out.

    Attributes:
        xx: x_i · x_i', with shape `(B, B)`.
        xz: x_i · z_j, with shape `(B, M)`.
        zz: z_j · z_j', with shape `(M, M)`.
    """

    def __init__(self, space: GramSpace, x: Tensor, level: float):
        self.space, self.x = space, x
        self.scale = None
        scaled, self.zz = x, space.gram[0]
        if space.matched:
            shrinkage = space.shrinkage(level)
            self.scale = shrinkage[space.spectrum.band]  # (D,)
            scaled = x * self.scale
            self.zz = torch.tensordot(shrinkage.square(), space.gram, 1)
        self.xx = x @ x.T
        self.xz = scaled @ space.rows.T

    def start(self) -> "Combination":
        """The samples themselves: A = 1, C = 0."""
        eye = torch.eye(len(self.x), dtype=self.x.dtype, device=self.x.device)
        return Combination(self, eye, torch.zeros_like(self.xz))

    def displacement(self, a: Tensor, c: Tensor) -> Tensor:
        """(A − 1)·x + C·z as latents, with shape `(B, *shape)`."""
        moved = c @ self.space.rows
        if self.scale is not None:
            moved = moved * self.scale
        eye = torch.eye(len(self.x), dtype=self.x.dtype, device=self.x.device)
        moved = torch.addmm(moved, a - eye, self.x)
        if self.space.matched:
            return self.space.spectrum.inverse(moved)
        return moved.reshape(-1, *self.space.spectrum.shape)


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
        return Gram.within(ww), Gram(wz, ww.diagonal(), p.zz.diagonal())

    def moved(self, to_w: Tensor, to_z: Tensor) -> "Combination":
        """w + to_w·w + to_z·z, with shapes `(B, B)` and `(B, M)`."""
        return Combination(self.projection, self.a + to_w @ self.a, self.c + to_w @ self.c + to_z)

    def displacement(self) -> Tensor:
        """w − x as latents, with shape `(B, *shape)`."""
        return self.projection.displacement(self.a, self.c)
