"""References as rows about their centre: on the device while there is room, else streamed to it.

All that guidance asks of the D numbers of a reference are two products, `dots` and `mix`. Rows are held in fp32, or
where that is too much in fp16, or not at all: then pieces come from wherever the latents are stored. Sums are in fp32
or better in any case.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .latents import Latents

__all__ = ["Rows"]

STREAMED = 2**24  # numbers of a piece: large enough for full speed, small beside any model
BLOCK = 16, 2**14  # rows and columns that stay near the processor
SMALLER = torch.float16  # about the centre latents are small numbers, which it holds best


class Rows:
    """N rows of D numbers.

    Arguments:
        latents: The references.
        centred: Whether to keep rows relative to the weighted mean: distances do not change, and keep their digits.
        budget: How many bytes of the device they may take.

    Attributes:
        centre: What was subtracted, with shape `(D,)`.
        held: The rows on the device, with shape `(N, D)`, or None.
    """

    def __init__(self, latents: Latents, centred: bool = True, budget: float = math.inf):
        self.latents, self.dtype = latents, latents.weights.dtype
        self.centre = latents.mean.flatten()
        if not centred:
            self.centre = torch.zeros_like(self.centre)
        self.held = None
        for dtype in (self.dtype, SMALLER):
            if self.held is None and len(self) * len(self.centre) * dtype.itemsize <= budget:
                self.held = self._hold(dtype)

    def __len__(self) -> int:
        return len(self.latents)

    def _hold(self, dtype: torch.dtype) -> Tensor | None:
        try:
            held = self.centre.new_empty(len(self), len(self.centre), dtype=dtype)
            for which, piece in self.latents.pieces():
                held[which] = piece.flatten(1).sub(self.centre)
        except torch.cuda.OutOfMemoryError:
            return None  # others took what was said to be free
        if dtype == SMALLER and not all(part.isfinite().all() for part in held.split(256)):
            return None
        return held

    def of(self, index: Tensor) -> Tensor:
        """Some of them, with shape `(n, D)`."""
        return self.latents.of(index).flatten(1) - self.centre

    def pieces(self, first: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Which rows, and these, with shape `(n, D)`; all at once where they are held as they are needed."""
        if self.held is None:
            for which, piece in self.latents.pieces(STREAMED, first):
                yield which, piece.flatten(1) - self.centre
        elif self.held.dtype == self.dtype:
            yield slice(first, len(self)), self.held[first:]
        else:
            step = max(1, STREAMED // len(self.centre))
            for start in range(first, len(self), step):
                which = slice(start, min(start + step, len(self)))
                yield which, self.held[which].to(self.dtype)

    def dots(self, x: Tensor) -> Tensor:
        """Inner products with rows `x`, with shape `(B, D)`: `(B, N)`."""
        # The large matrix first: on a CPU that is up to twice as fast.
        parts = [(rows @ x.T).T for _, rows in self.pieces()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def mix(self, c: Tensor) -> Tensor:
        """Sums of rows with the factors `c`, with shape `(B, N)`: `(B, D)`."""
        total = None
        for which, rows in self.pieces():
            part = _product(c[:, which], rows)
            total = part if total is None else total.add_(part)
        return total

    def gram(self) -> Tensor:
        """Inner products between all rows, with shape `(N, N)`."""
        gram = self.centre.new_empty(len(self), len(self))
        for which, rows in self.pieces():
            gram[which, which] = rows @ rows.T
            if which.stop < len(self):
                for others, more in self.pieces(which.stop):
                    across = rows @ more.T
                    gram[which, others], gram[others, which] = across, across.T
        return gram


def _product(c: Tensor, rows: Tensor) -> Tensor:
    """c · rows; for few sums on a CPU block by block, which is up to three times as fast there."""
    if rows.device.type != "cpu" or not 2 < len(c) <= 16:
        return c @ rows
    total, (n, d) = rows.new_zeros(len(c), rows.shape[1]), BLOCK
    for columns in range(0, rows.shape[1], d):
        part = total[:, columns : columns + d]
        for first in range(0, len(rows), n):
            part.addmm_(c[:, first : first + n], rows[first : first + n, columns : columns + d])
    return total
