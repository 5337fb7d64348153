"""Drawings in several runs: a run that goes on keeps what the run before knew of its samples.

The noise of a sample decides its companion (`companions.py`). What a run leaves with noise does not
show it any more: samplers that draw new noise replace it step by step. With a mask, a run keeps a
part of its samples as it finds it, and noisy samples do not show what is below the noise. So a run
notes some numbers of each sample that it leaves with noise, the companion, and its last estimate of
the clean sample. The next run finds its samples there.

Many numbers of a sample may have changed in between, because nodes for regions put samples
together. So a sample is the noted one with which it shares most numbers.
"""

import hashlib
from typing import NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from .companions import some_numbers

__all__ = ["UNKNOWN", "Unfinished", "unfinished_towards"]

UNKNOWN = -1  # in place of a companion
LIMIT = 256  # samples that are noted, the newest
ESTIMATES = 2**26  # bytes of their estimates, at most
# Numbers are equal up to this part of their size and spread: between runs they may be stored in
# half precision. Of two samples with other noise, about two numbers in a thousand are that near.
TOLERANCE = 2e-3
SHARE = 0.25  # the least share of equal numbers of two samples that are the same
SOME = 2**12  # numbers of a set by which it is known


class Note(NamedTuple):
    """A sample that was left with noise.

    Arguments:
        shape: Its shape.
        numbers: Some of its numbers, with shape `(V,)`, float32 on the CPU.
        companion: The index of its companion, or `UNKNOWN`.
        estimate: The last estimate of the clean sample, on the CPU, or None.
        finished: The places at which runs finished it.
    """

    shape: tuple[int, ...]
    numbers: Tensor
    companion: int
    estimate: Tensor | None
    finished: list[Tensor]


class Unfinished:
    """Samples that runs towards a set left with noise, each with its companion."""

    def __init__(self) -> None:
        self._notes: list[Note] = []  # the newest first

    def keep(self, samples: Tensor, companions: Tensor, estimates: Tensor | None = None) -> None:
        """Notes samples.

        Arguments:
            samples: With shape `(B, *shape)`, in the space of the model.
            companions: The index of the companion of each, or `UNKNOWN`, with shape `(B,)`.
            estimates: The last estimates of the clean samples, with shape `(B, *)`, or None.
        """
        numbers = some_numbers(samples).float().cpu()
        clean = [None] * len(samples) if estimates is None else list(estimates.cpu())
        shape = tuple(samples.shape[1:])
        rows = zip(numbers, companions.tolist(), clean, strict=True)
        self._notes = ([Note(shape, *row, []) for row in rows] + self._notes)[:LIMIT]
        room = ESTIMATES
        for i, note in enumerate(self._notes):
            room -= 0 if note.estimate is None else note.estimate.nbytes
            if room < 0:
                self._notes[i] = note._replace(estimate=None)

    def companions_of(self, samples: Tensor) -> Tensor:
        """The companion of each sample, `UNKNOWN` if it has none, with shape `(B,)`, on the CPU.

        Arguments:
            samples: With shape `(B, *shape)`, in the space of the model.
        """
        found = self._of(samples)
        return torch.tensor([UNKNOWN if note is None else note.companion for note in found])

    def clean(self, samples: Tensor, latents: Tensor) -> Tensor:
        """The latents, with the last estimate in place of each that a run left with noise.

        Arguments:
            samples: What the runs compared of the latents, with shape `(B, *shape)`.
            latents: With shape `(B, *)`, in the space of the model.
        """
        rows = [
            row if note is None or _other(note.estimate, row) else note.estimate.to(row)
            for note, row in zip(self._of(samples), latents, strict=True)
        ]
        return torch.stack(rows)

    def finish(self, samples: Tensor, places: Tensor) -> bool:
        """Notes where a run finishes samples.

        Arguments:
            samples: As the run before left them, with shape `(B, *shape)`.
            places: 1 where the run may change them, else 0, with shape `(1, *shape)` or `()`.

        Returns:
            Whether they all were finished before, at other places only.
        """
        found, places = self._of(samples), places.bool().cpu()
        again = all(note is not None and _elsewhere(note.finished, places) for note in found)
        for note in found:
            if note is not None:
                note.finished.append(places)
        return again

    def _of(self, samples: Tensor) -> list[Note | None]:
        """The note of each sample."""
        found: list[Note | None] = [None] * len(samples)
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
                found[i] = notes[best]
        return found


def _other(estimate: Tensor | None, row: Tensor) -> bool:
    return estimate is None or estimate.shape != row.shape


def _elsewhere(finished: list[Tensor], places: Tensor) -> bool:
    return bool(finished) and not any((places & others).any() for others in finished)


# Sets of equal content that are in use have one object, as equal strings of Python may have.
_IN_USE: WeakValueDictionary[bytes, Unfinished] = WeakValueDictionary()


def unfinished_towards(latents: Tensor, weights: Tensor) -> Unfinished:
    """What runs towards a set left, the same object for sets of equal content.

    The stages of a drawing may each load the set anew. A set is known by its shape, its weights and
    some numbers, so that a large one is not read. Sets that differ elsewhere are mistaken for each
    other; then samples are told apart by their own numbers.

    Arguments:
        latents: With shape `(N, *shape)`, on the CPU.
        weights: With shape `(N,)`, on the CPU.
    """
    rows = latents.flatten(1)
    numbers = torch.arange(min(SOME, rows.numel())) * max(rows.numel() // SOME, 1)
    some = rows[numbers // rows.shape[1], numbers % rows.shape[1]]
    content = hashlib.sha256(repr(tuple(latents.shape)).encode())
    for part in (some, weights):
        content.update(part.contiguous().numpy().tobytes())
    return _IN_USE.setdefault(content.digest(), Unfinished())
