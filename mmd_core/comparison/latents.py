"""Latents with weights, handed out piece by piece where they are needed.

A set may be larger than the memory of the device, or than any memory: it then lies in a mapped file, and pieces of
it travel to the device, each while the one before is worked on.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property

import torch
from torch import Tensor

__all__ = ["Latents"]

PIECE = 2**17  # numbers looked at together: little memory, and near the processor


class Latents:
    """N latents with weights, in the space of the samples.

    Arguments:
        stored: With shape `(N, *)`, any float dtype, on any device.
        weights: With shape `(N,)`, sum 1, not negative; latents are handed out on their device, in their dtype.
        prepare: Makes latents in the space of the samples of some stored ones on the device.
    """

    def __init__(
        self,
        stored: Tensor,
        weights: Tensor,
        prepare: Callable[[Tensor], Tensor] = lambda latents: latents,
    ):
        self.stored, self.weights, self.prepare = stored, weights, prepare
        self.shape = tuple(self.of([0]).shape[1:])

    def __len__(self) -> int:
        return len(self.stored)

    def of(self, index: Sequence[int] | Tensor) -> Tensor:
        """Those of an index, with shape `(n, *shape)`."""
        index = torch.as_tensor(index, device=self.stored.device)
        return self.prepare(self.stored[index].to(self.weights.device).to(self.weights.dtype))

    def pieces(self, numbers: int = PIECE, first: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """All from `first` on, about so many numbers at a time: which they are, and `(n, *shape)`."""
        step = max(1, numbers // max(1, self.stored[0].numel()))
        for piece in self._arriving(step, first):
            which = slice(first, first + len(piece))
            first = which.stop
            yield which, self.prepare(piece.to(self.weights.dtype))

    def _arriving(self, step: int, first: int) -> Iterator[Tensor]:
        """Pieces as they are stored, on the device."""
        device, parts = self.weights.device, self.stored[first:].split(step)
        if device.type != "cuda" or self.stored.device.type != "cpu":
            yield from (part.to(device) for part in parts)
            return
        stream, ahead = _stream(device), None
        shape = min(step, len(self)), *self.stored.shape[1:]
        pinned = [torch.empty(shape, dtype=self.stored.dtype, pin_memory=True) for _ in range(2)]
        left = [torch.cuda.Event() for _ in pinned]
        for i, part in enumerate(parts):
            left[i % 2].synchronize()  # the piece that was in this buffer
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
        """Their weighted mean, with shape `shape`."""
        total = self.weights.new_zeros(self.shape)
        for which, piece in self.pieces():
            # No matrix product: with TF32 it would keep three digits, of latents that may be far from 0.
            weights = self.weights[which].reshape(-1, *[1] * len(self.shape))
            total += (piece * weights).sum(0)
        return total

    @cached_property
    def spread(self) -> float:
        """How far one is from the mean: the root of the weighted mean of ‖y − mean‖²; 1 if none is."""
        total = self.weights.new_zeros(())
        for which, piece in self.pieces():
            total += self.weights[which] @ (piece - self.mean).flatten(1).square().sum(1)
        return total.sqrt().item() or 1.0


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The one for copies: memory that was freed on a stream serves that stream only."""
    return torch.cuda.Stream(device)


def _arrived(piece: Tensor, event: torch.cuda.Event) -> Tensor:
    stream = torch.cuda.current_stream(piece.device)
    stream.wait_event(event)
    piece.record_stream(stream)  # else its memory could be given away while it is still read
    return piece
