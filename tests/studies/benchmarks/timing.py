"""Times of variants that take turns, so that other load on the machine meets all of them."""

import math
import time
from collections.abc import Callable, Hashable
from statistics import median
from typing import NamedTuple

import torch


class Times(NamedTuple):
    """The seconds of each round, or with `by` their ratios."""

    rounds: tuple[float, ...]

    @property
    def least(self) -> float:
        return min(self.rounds)

    @property
    def median(self) -> float:
        return median(self.rounds)

    def by(self, other: "Times") -> "Ratio":
        """The ratios to what took turns with this."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return Ratio(self.least / other.least, median(ours / theirs for ours, theirs in pairs))


class Ratio(NamedTuple):
    """That of the fastest rounds, and the median of the ratios within a round."""

    least: float
    median: float


def best_times(variants: dict[Hashable, Callable], rounds: int) -> dict[Hashable, float]:
    """The seconds of the fastest of `rounds` runs of each variant, taken in turns."""
    return {name: times.least for name, times in times_in_turns(variants, rounds).items()}


def times_in_turns(
    variants: dict[Hashable, Callable],
    rounds: int,
    shortest: float = 0.0,
    patience: float = math.inf,
) -> dict[Hashable, Times]:
    """The times of each variant.

    Arguments:
        shortest: Seconds that a variant is repeated for at every turn; the mean then counts.
        patience: Seconds after which no further round begins.
    """
    found: dict[Hashable, list[float]] = {name: [] for name in variants}
    begin = time.perf_counter()
    for done in range(rounds):
        if done and time.perf_counter() - begin > patience:
            break
        for name, run in variants.items():
            found[name].append(_seconds(run, shortest))
    return {name: Times(tuple(seconds)) for name, seconds in found.items()}


def _seconds(run: Callable, shortest: float) -> float:
    _settle()
    start, times = time.perf_counter(), 0
    while True:
        run()
        _settle()
        times += 1
        passed = time.perf_counter() - start
        if passed >= shortest:
            return passed / times


def _settle() -> None:
    """Waits for a GPU to be done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
