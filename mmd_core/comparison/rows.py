"""References as rows minus their centre: on the device if they fit, otherwise streamed to it.

Guidance needs only two products with the D numbers of the references, `dots` and `mix`. Rows are
held on the device in fp32; if they do not fit, in fp16; if these do not fit either, pieces are read
from where the latents are stored. Sums are always in fp32 or better.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .full_memory import out_of_memory
from .latents import Latents

__all__ = ["Rows", "never_stopped"]

# The most numbers of a piece that is streamed, and the most as a part of the set: large enough for
# full speed, but several copies of a piece must take less memory than the set.
STREAMED, PART = 2**21, 16
# The same for a block of rows with which pieces are compared: the higher it is, the less is copied.
HIGH, HIGH_PART = 2**23, 4
BLOCK = 16, 2**14  # rows and columns of a block that stays in CPU cache
# Multiplications of a product on a CPU, above which it is divided: one core needs seconds for them.
LONG = 2**36
SMALLER = torch.float16  # latents minus their centre are small, and it stores them with most digits


def never_stopped() -> None:
    """Stops nothing."""


class Rows:
    """References as N rows of D numbers.

    Arguments:
        latents: The references.
        centred: Whether to subtract the weighted mean. Distances do not change, and their rounding
            error becomes smaller.
        budget: How many bytes of device memory the rows may use.
        check: Is called before products of large matrices. It may raise an exception to stop:
            thousands of samples or references have many of them, which can take minutes on a CPU.

    Attributes:
        dtype: The dtype in which the rows are used, fp32 or better.
        centre: What is subtracted from the rows, with shape `(D,)`.
        held: The rows on the device, with shape `(N, D)`, or None if they are streamed.
    """

    def __init__(
        self,
        latents: Latents,
        centred: bool = True,
        budget: float = math.inf,
        check: Callable[[], None] = never_stopped,
    ) -> None:
        self.latents, self.dtype, self.check = latents, latents.weights.dtype, check
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
        """All rows in `dtype` on the device; None if they do not fit, or are too large for fp16."""
        try:
            held = self.centre.new_empty(len(self), len(self.centre), dtype=dtype)
            finite = torch.ones((), dtype=torch.bool, device=held.device)
            for which, piece in self.latents.pieces():
                held[which] = piece.flatten(1).sub(self.centre)
                if dtype == SMALLER:
                    finite &= held[which].isfinite().all()
        except (MemoryError, RuntimeError) as error:
            if out_of_memory(error):
                return None  # something else has used the memory of the budget
            raise
        return held if dtype != SMALLER or finite else None

    def of(self, index: Tensor) -> Tensor:
        """The rows at `index`, with shape `(n, D)`."""
        return self.latents.of(index).flatten(1) - self.centre

    def pieces(self, first: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """All rows from the index `first` on, in pieces.

        Rows that are held in the dtype in which they are used are one piece.

        Yields:
            The indices of the piece, and its rows, with shape `(n, D)`.
        """
        if self.held is not None and self.held.dtype == self.dtype:
            yield slice(first, len(self)), self.held[first:]
            return
        if self.held is None:
            for which, piece in self.latents.pieces(self._streamed, first):
                yield which, piece.flatten(1) - self.centre
            return
        for which in self._parts(self._streamed, first):
            yield which, self.held[which].to(self.dtype)

    @property
    def _streamed(self) -> int:
        """The numbers of a piece."""
        return min(STREAMED, len(self) * len(self.centre) // PART)

    def _parts(self, numbers: int, first: int = 0) -> Iterator[slice]:
        """The rows from `first` on, in parts of about `numbers` numbers."""
        step = max(1, numbers // len(self.centre))
        for start in range(first, len(self), step):
            yield slice(start, min(start + step, len(self)))

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in blocks, which are higher than pieces."""
        if self.held is not None and self.held.dtype == self.dtype:
            yield from self.pieces()
            return
        for which in self._parts(min(HIGH, len(self) * len(self.centre) // HIGH_PART)):
            yield which, self._rows(which)

    def _rows(self, which: slice) -> Tensor:
        """The rows of a slice, with shape `(n, D)`, in the dtype in which they are used."""
        if self.held is not None:
            return self.held[which].to(self.dtype)
        rows = self.centre.new_empty(which.stop - which.start, len(self.centre))
        for part, piece in self.latents.pieces(self._streamed, which.start, which.stop):
            here = slice(part.start - which.start, part.stop - which.start)
            torch.sub(piece.flatten(1), self.centre, out=rows[here])
        return rows

    def dots(self, x: Tensor) -> Tensor:
        """The inner products of `x`, with shape `(B, D)`, and the rows, with shape `(B, N)`."""
        # On a CPU the product is up to twice as fast if the large matrix comes first.
        parts = [self.product(rows, x.T).T for _, rows in self.pieces()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def mix(self, c: Tensor) -> Tensor:
        """The product c · rows, with shape `(B, D)`; `c` has the shape `(B, N)`."""
        total = None
        for which, rows in self.pieces():
            c_ = c[:, which]
            few = rows.device.type == "cpu" and 2 < len(c_) <= 16
            part = _of_few(c_, rows) if few else self.product(c_, rows)
            total = part if total is None else total.add_(part)
        return total

    def gram(self) -> Tensor:
        """The inner products between all rows, with shape `(N, N)`."""
        gram = self.centre.new_empty(len(self), len(self))
        for which, rows in self._blocks():
            gram[which, which] = self.product(rows, rows.T)
            if which.stop < len(self):
                for others, more in self.pieces(which.stop):
                    across = self.product(rows, more.T)
                    gram[which, others], gram[others, which] = across, across.T
            del rows  # before the next block is made
        return gram

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """The product a · b, with calls of `check`."""
        self.check()
        step = LONG // max(b.numel(), 1) if a.device.type == "cpu" else len(a)
        if step >= len(a):
            return a @ b
        out = a.new_empty(len(a), b.shape[1])
        for part, rows in zip(out.split(max(step, 1)), a.split(max(step, 1)), strict=True):
            self.check()
            torch.mm(rows, b, out=part)
        return out


def _of_few(c: Tensor, rows: Tensor) -> Tensor:
    """The product c · rows, block by block: for few rows of `c` up to three times as fast."""
    total, (n, d) = rows.new_zeros(len(c), rows.shape[1]), BLOCK
    for columns in range(0, rows.shape[1], d):
        part = total[:, columns : columns + d]
        for first in range(0, len(rows), n):
            part.addmm_(c[:, first : first + n], rows[first : first + n, columns : columns + d])
    return total
