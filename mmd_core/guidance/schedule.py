"""What guidance knows of a sampling run, and how it is carried out."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..comparison.noise import NoiseModel, Step, Window, euler_carry
from ..comparison.workers import ALONE, Workers

__all__ = ["PLAIN", "Execution", "Schedule"]

ROUNDING = 1e-5  # relative difference of noise levels that count as equal


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a run, and what its sampler does with a change of x̂0.

    Arguments:
        sigmas: The noise schedule, decreasing.
        window: Where guidance acts.
        noise: The model's noise.
        carry: The factor by which a change of x̂0 enters x in one step of the sampler. By default
            that of an Euler step.
    """

    sigmas: tuple[float, ...]
    window: Window
    noise: NoiseModel = NoiseModel()
    carry: Callable[[Step], float] = euler_carry

    def step(self, sigma: float) -> Step | None:
        """As `Step.find`."""
        return Step.find(sigma, self.sigmas, self.window, self.noise)

    def progress(self, sigma: float) -> float:
        """The share of the steps before a call at `sigma`, in [0, 1]."""
        done = sum(s > sigma * (1 + ROUNDING) for s in self.sigmas)
        return done / max(len(self.sigmas) - 1, 1)


@dataclass(frozen=True)
class Execution:
    """How guidance is carried out.

    Arguments:
        record: Whether to keep a trace.
        budget: How many bytes of device memory the references may use. If they need more, they are
            streamed to the device.
        workers: The processes that draw the batch. All of them make the same calls.
    """

    record: bool = False
    budget: float = math.inf
    workers: Workers = ALONE


PLAIN = Execution()
