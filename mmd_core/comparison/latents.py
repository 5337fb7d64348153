"""Latents with weights, which are read piece by piece on the device that computes.

A set of latents may be larger than device memory. If it is larger than main memory too, it is in a
memory-mapped file. Pieces are copied to the device: while one piece is used, the next one is
copied.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property

import torch
from torch import Tensor

from ..kernels.transfers import placed

__all__ = ["Latents"]

PIECE = 2**17  # numbers of a piece: it takes little memory and stays in CPU cache


class Latents:
    """N latents with weights, in the space of the samples.

    Arguments:
        stored: The latents as they are stored, with shape `(N, *)`, any float dtype, on any device.
        weights: Their weights, with shape `(N,)`, sum 1, not negative. Latents are returned on the
            device and in the dtype of the weights.
        prepare: A function that converts stored latents to the space of the samples.

    Attributes:
        shape: The shape of one latent in the space of the samples.
    """

    def __init__(
        self,
        stored: Tensor,
        weights: Tensor,
        prepare: Callable[[Tensor], Tensor] = lambda latents: latents,
    ) -> None:
        self.stored, self.weights, self.prepare = stored, weights, prepare
        self.shape = tuple(self._arrived(self.stored[:1]).shape[1:])

    def __len__(self) -> int:
        return len(self.stored)

    def of(self, index: Sequence[int] | Tensor) -> Tensor:
        """The latents at `index`, with shape `(n, *shape)`."""
        index = torch.as_tensor(index)
        return self._arrived(self.stored[placed(index, self.stored, index.dtype)])

    def _arrived(self, stored: Tensor) -> Tensor:
        stored = placed(stored, self.weights, stored.dtype)
        return self.prepare(stored.to(self.weights.dtype))

    def pieces(
        self, numbers: int = PIECE, first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """The latents from the index `first` to `stop`, in pieces of about `numbers` numbers.

        Yields:
            The indices of the piece, and its latents, with shape `(n, *shape)`.
        """
        step = max(1, numbers // max(1, self.stored[0].numel()))
        for piece in self._arriving(step, first, stop):
            which = slice(first, first + len(piece))
            first = which.stop
            yield which, self.prepare(piece.to(self.weights.dtype))

    def _arriving(self, step: int, first: int, stop: int | None) -> Iterator[Tensor]:
        """Pieces of the stored latents, `step` latents each, copied to the device."""
        device, parts = self.weights.device, self.stored[first:stop].split(step)
        if device.type != "cuda" or self.stored.device.type != "cpu":
            yield from (part.to(device) for part in parts)
            return
        stream, ahead = _stream(device), None
        shape = min(step, len(self)), *self.stored.shape[1:]
        pinned = [torch.empty(shape, dtype=self.stored.dtype, pin_memory=True) for _ in range(2)]
        left = [torch.cuda.Event() for _ in pinned]
        for i, part in enumerate(parts):
            left[i % 2].synchronize()  # waits until the last piece in this buffer is copied
            buffer = pinned[i % 2][: len(part)].copy_(part)
            with torch.cuda.stream(stream):
                arriving = buffer.to(device, non_blocking=True)
                left[i % 2].record(stream)
            if ahead is not None:
                yield _arrived(*ahead)
            ahead = arriving, stream.record_event()
        if ahead is not None:
            yield _arrived(*ahead)

    @cached_property
    def mean(self) -> Tensor:
        """The weighted mean of the latents, with shape `shape`."""
        total = self.weights.new_zeros(self.shape)
        for which, piece in self.pieces():
            # Not a matrix product: TF32 would keep three digits only, and latents may be far from
            # 0.
            weights = self.weights[which].reshape(-1, *[1] * len(self.shape))
            total += (piece * weights).sum(0)
        return total

    @cached_property
    def spread(self) -> Tensor:
        """The root of the weighted mean of ‖y − mean‖², a scalar; 1 if all latents y are equal."""
        total = self.weights.new_zeros(())
        for which, piece in self.pieces():
            total += self.weights[which] @ (piece - self.mean).flatten(1).square().sum(1)
        return torch.where(total == 0, 1.0, total.sqrt())


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream for copies to a device.

    All copies share one stream, because memory that was freed on a stream is reused only there.
    """
    return torch.cuda.Stream(device)


def _arrived(piece: Tensor, event: torch.cuda.Event) -> Tensor:
    """The piece, once the current stream waits for the end of its copy."""
    stream = torch.cuda.current_stream(piece.device)
    stream.wait_event(event)
    piece.record_stream(stream)  # otherwise its memory could be reused while it is still read
    return piece
