"""Gram space: guidance computes with whole latents only twice per model call.

Every gradient in this package is a linear combination of rows. A sample that follows such gradients
is therefore always a linear combination of rows too:

    w = x + A·x + C·z = x + K·r      K = [A | C]: (B, B + M)      r: the samples x, then the rows z

The rows z are the references and the finished samples. Kernels need only the inner products of x
with r, which are one matrix product over the D numbers of a latent. All sub-steps, bandwidths and
prompt weights then need only matrices of B×(B + M) and M×M numbers. At the end, a second matrix
product over D forms w.

If the inner products between references do not fit into memory, the space is *compact*: it does not
store them, and w is formed at every sub-step instead.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from ..kernels.kernels import Gram
from ..kernels.transfers import placed
from .rows import Rows

__all__ = ["Combination", "GramSpace", "Projection"]

MOST_COPIED = 1024  # most rows z whose inner products are copied for the samples of each call
MAX_SAMPLED_REFERENCES = 2048  # most references in the `sample` of a compact space


class GramSpace:
    """The rows z with which samples are compared: N references, then m finished samples.

    Arguments:
        rows: The references.
        memory: The finished samples, with shape `(m, *shape)`, or None.
        compact: Whether to save memory: the inner products between all rows z are not stored.

    Attributes:
        centre: What is subtracted from all rows and samples, with shape `(D,)`.
        gram: z_j · z_j', with shape `(M, M)`, or None if `compact`.
        squares: ‖z_j‖², with shape `(M,)`.
    """

    def __init__(self, rows: Rows, memory: Tensor | None = None, compact: bool = False) -> None:
        self.rows, self.centre, self.gram = rows, rows.centre, None
        self.memory = None if memory is None else memory.flatten(1) - self.centre
        if compact:
            squares = [piece.square().sum(1) for _, piece in rows.pieces()]
            squares += [] if memory is None else [self.memory.square().sum(1)]
            self.squares = torch.cat(squares)
        else:
            self.gram = rows.gram()
            if memory is not None:
                self.gram = extended(self.gram, rows.dots(self.memory), self.memory)
            self.squares = self.gram.diagonal()

    def __len__(self) -> int:
        return len(self.squares)

    def dots(self, x: Tensor) -> Tensor:
        """The inner products of rows `x`, with shape `(B, D)`, and z, with shape `(B, M)`."""
        dots = self.rows.dots(x)
        return dots if self.memory is None else torch.cat([dots, x @ self.memory.T], 1)

    def mix(self, c: Tensor) -> Tensor:
        """C·z, with shape `(B, D)`; `c` is C, with shape `(B, M)`."""
        mixed = self.rows.mix(c[:, : len(self.rows)])
        return mixed if self.memory is None else mixed.addmm_(c[:, len(self.rows) :], self.memory)

    @cached_property
    def sample(self) -> tuple[Tensor, Tensor]:
        """The references that represent all of them, with inner products.

        They are all references, or evenly spaced ones if the space is compact.

        Returns:
            Their indices, with shape `(n,)`, and the inner products of these references and the
            finished samples, with shape `(n + m, n + m)`.
        """
        n = len(self.rows)
        index = torch.arange(0, n, -(-n // MAX_SAMPLED_REFERENCES) if self.gram is None else 1)
        here = placed(index, self.centre, index.dtype)
        if self.gram is not None:
            return here, self.gram
        some = self.rows.of(index)
        gram = some @ some.T
        if self.memory is not None:
            gram = extended(gram, self.memory @ some.T, self.memory)
        return here, gram

    def project(self, x: Tensor, lacking: float | Tensor = 0.0) -> "Projection":
        """The projection of samples `x`, with shape `(B, *shape)`; arguments as in `Projection`."""
        return Projection(self, x.flatten(1) - self.centre, lacking)


def extended(gram: Tensor, across: Tensor, added: Tensor) -> Tensor:
    """The inner products of n rows and m added rows, with shape `(n + m, n + m)`.

    Arguments:
        gram: The inner products of the rows, with shape `(n, n)`.
        across: The inner products of the added rows with the rows, with shape `(m, n)`.
        added: The added rows, with shape `(m, D)`.
    """
    return torch.cat([torch.cat([gram, across.T], 1), torch.cat([across, added @ added.T], 1)])


class Projection:
    """Samples x in a Gram space, with their inner products.

    Arguments:
        space: The rows with which the samples are compared.
        x: The samples minus the centre, with shape `(B, D)`.
        lacking: The posterior variance E, which is added to the squared norm of each sample
            (`posterior.py`).
        displaced: The displacement of `x` since the start of the flow, with shape `(B, D)`, or None
            for no displacement.
    """

    def __init__(
        self,
        space: GramSpace,
        x: Tensor,
        lacking: float | Tensor = 0.0,
        displaced: Tensor | None = None,
    ) -> None:
        self.space, self.x, self.lacking, self.displaced = space, x, lacking, displaced

    @cached_property
    def dots(self) -> Tensor:
        """x_i · r_j, with shape `(B, B + M)`."""
        within = self.space.rows.product(self.x, self.x.T)
        return torch.cat([within, self.space.dots(self.x)], 1)

    @cached_property
    def all_dots(self) -> Tensor | None:
        """r_i · r_j, with shape `(B + M, B + M)`; None where a copy of `gram` would cost much.

        A GPU then needs fewer operators for a sub-step.
        """
        if self.dots.device.type == "cpu" or len(self.space) > MOST_COPIED:
            return None
        across = self.dots[:, len(self.dots) :]
        return torch.cat([self.dots, torch.cat([across.T, self.space.gram], 1)])

    def start(self) -> "Combination":
        """The samples x themselves, as a combination with K = 0."""
        return Combination(self, torch.zeros_like(self.dots), moved=False)


class Combination:
    """Samples w = x + K·r.

    Arguments:
        projection: The samples x.
        k: K, with shape `(B, B + M)`.
        moved: Whether K may differ from 0.
    """

    def __init__(self, projection: Projection, k: Tensor, moved: bool = True) -> None:
        self.projection, self.k, self._moved = projection, k, moved

    @cached_property
    def gram(self) -> Gram:
        """The inner products of w with [w; z], with shape `(B, B + M)`."""
        p, b = self.projection, len(self.k)
        check = p.space.rows.check
        check()
        if not self._moved:
            dots = p.dots.clone()
        elif p.all_dots is not None:
            dots = torch.addmm(p.dots, self.k, p.all_dots)
            dots[:, :b].add_(dots @ self.k.T)
        else:
            a, c = self.k[:, :b], self.k[:, b:]
            dots = torch.addmm(p.dots, a, p.dots)
            dots[:, :b].addmm_(c, p.dots[:, b:].T)
            dots[:, b:].addmm_(c, p.space.gram)
            check()
            dots[:, :b].add_(dots @ self.k.T)
        squares = dots.diagonal().add_(p.lacking)
        return Gram(dots, squares, torch.cat([squares, p.space.squares]))

    @property
    def lasting(self) -> bool:
        """Whether r stays the same during the flow, so that one can go back to an earlier K."""
        return self.projection.space.gram is not None

    def moved(
        self,
        by: Tensor,
        most: float = math.inf,
        weights: Tensor | None = None,
        h: float = 1.0,
        back: "Combination | None" = None,
    ) -> "Combination":
        """w + h · weights · (L·w + F·z).

        Arguments:
            by: [L | F], with shape `(B, B + M)`.
            most: The largest sum of coefficients |K| of a sample. A sample that would have more, or
                numbers that are not finite, stays where it is.
            weights: With shape `(B, B)`; None for 1.
            h: A factor.
            back: Where such a sample goes instead; None: it stays.
        """
        self.projection.space.rows.check()
        change = torch.addmm(by, by[:, : len(by)], self.k) if self._moved else by
        if weights is None:
            k = torch.add(self.k, change, alpha=h)
        else:
            k = torch.addmm(self.k, weights, change, alpha=h)
        if most < math.inf:
            sums = torch.linalg.vector_norm(k, 1, dim=1, keepdim=True)
            k = torch.where(sums <= most, k, (back or self).k)
        moved = Combination(self.projection, k)
        return moved if self.lasting else moved._formed(moved.displacement())

    def _formed(self, displaced: Tensor) -> "Combination":
        """The samples as a new projection, in which x is w.

        Arguments:
            displaced: The displacement of the samples since the start of the flow, with shape
                `(B, D)`.
        """
        p = self.projection
        x = p.x + displaced if p.displaced is None else p.x - p.displaced + displaced
        return Projection(p.space, x, p.lacking, displaced).start()

    def shortened(self, share: Tensor) -> "Combination":
        """x + share·(w − x) with x at the start of the flow.

        Arguments:
            share: One factor for each sample, with shape `(B,)`.
        """
        p = self.projection
        if p.space.gram is None:
            return self._formed(share[:, None] * self.displacement())
        return Combination(p, share[:, None] * self.k)

    def displacement(self) -> Tensor:
        """w − x with x at the start of the flow, with shape `(B, D)`."""
        p, b = self.projection, len(self.k)
        if not self._moved:
            return torch.zeros_like(p.x) if p.displaced is None else p.displaced
        step = p.space.mix(self.k[:, b:]).addmm_(self.k[:, :b], p.x)
        return step if p.displaced is None else step.add_(p.displaced)
