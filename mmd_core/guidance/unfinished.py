"""Drawings in several runs: a run that goes on keeps the companions of the run before.

The noise of a sample decides its companion (`companions.py`). What a run leaves with noise does not
show it any more: samplers that draw new noise replace it step by step. So a run notes some numbers
of each sample that it leaves with noise, and the companion. The next run finds its samples there.

Many numbers of a sample may have changed in between, because nodes for regions put samples
together. So a sample is the noted one with which it shares most numbers.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .companions import some_numbers

__all__ = ["UNKNOWN", "Unfinished"]

UNKNOWN = -1  # in place of a companion
LIMIT = 256  # samples that are noted, the newest
# Numbers are equal up to this part of their size and spread: between runs they may be stored in
# half precision. Of two samples with other noise, about two numbers in a thousand are that near.
TOLERANCE = 2e-3
SHARE = 0.25  # the least share of equal numbers of two samples that are the same


class Note(NamedTuple):
    """A sample that was left with noise.

    Arguments:
        shape: Its shape.
        numbers: Some of its numbers, with shape `(V,)`, float32 on the CPU.
        companion: The index of its companion, or `UNKNOWN`.
    """

    shape: tuple[int, ...]
    numbers: Tensor
    companion: int


class Unfinished:
    """Samples that runs left with noise, each with its companion."""

    def __init__(self) -> None:
        self._notes: list[Note] = []  # the newest first

    def keep(self, samples: Tensor, companions: Tensor) -> None:
        """Notes samples.

        Arguments:
            samples: With shape `(B, *shape)`, in the space of the model.
            companions: The index of the companion of each, or `UNKNOWN`, with shape `(B,)`.
        """
        numbers = some_numbers(samples).float().cpu()
        pairs = zip(numbers, companions.tolist(), strict=True)
        notes = [Note(tuple(samples.shape[1:]), row, companion) for row, companion in pairs]
        self._notes = (notes + self._notes)[:LIMIT]

    def companions_of(self, samples: Tensor) -> Tensor:
        """The companion of each sample, `UNKNOWN` if it has none, with shape `(B,)`, on the CPU.

        Arguments:
            samples: With shape `(B, *shape)`, in the space of the model.
        """
        found = torch.full((len(samples),), UNKNOWN)
        notes = [note for note in self._notes if note.shape == tuple(samples.shape[1:])]
        if not notes:
            return found
        noted = torch.stack([note.numbers for note in notes])
        near = TOLERANCE * (noted.abs() + noted.std(1, keepdim=True))
        taken: set[int] = set()
        for i, row in enumerate(some_numbers(samples).float().cpu()):
            shares = ((row - noted).abs() <= near).float().mean(1)
            # Of equal samples each is found once.
            best = max(range(len(notes)), key=lambda j: (shares[j].item(), j not in taken, -j))
            if shares[best] >= SHARE:
                taken.add(best)
                found[i] = notes[best].companion
        return found
