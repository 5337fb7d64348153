"""What guidance knows of a sampling run, and how it is carried out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ..comparison.noise import NoiseModel, Step, Window, euler_carry
from ..comparison.rows import never_stopped
from ..comparison.workers import ALONE, Workers

__all__ = ["PLAIN", "Course", "Execution", "Schedule"]

ROUNDING = 1e-5  # relative difference of noise levels that count as equal


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a run, and what its sampler does with a change of x̂0.

    Arguments:
        sigmas: The noise schedule, usually decreasing.
        window: Where guidance acts.
        noise: The model's noise.
        carry: The factor by which a change of x̂0 enters x in one step of the sampler. By default
            that of an Euler step.
        goes_on: Whether the run goes on where another ended, so that its first noise level is not
            that of the drawing.
    """

    sigmas: tuple[float, ...]
    window: Window
    noise: NoiseModel = NoiseModel()
    carry: Callable[[Step], float] = euler_carry
    goes_on: bool = False

    @cached_property
    def falling(self) -> tuple[tuple[float, ...], ...]:
        """The longest parts of the schedule that do not rise, in order; nearly always one."""
        parts: list[list[float]] = []
        for sigma in self.sigmas:
            if parts and sigma <= parts[-1][-1] * (1 + ROUNDING):
                parts[-1].append(sigma)
            else:
                parts.append([sigma])
        return tuple(map(tuple, parts))

    @property
    def rises(self) -> bool:
        """Whether noise rises somewhere, as for unsampling."""
        return len(self.falling) > 1


class Course:
    """The place of a run in its schedule, call by call.

    A step to a higher noise level carries a change of x̂0 into x with a negative factor: guidance
    would push samples away from the references. So it does not act there. A part of the schedule
    that falls ends with a call at its last value. The next part begins with the first call that
    reaches its first value. Calls in between belong to a step that rises.

    Arguments:
        schedule: The noise levels of the run.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self._part, self._rising = schedule, 0, False

    def reach(self, sigma: float) -> None:
        """Notes the next call of the model, at `sigma`."""
        parts = self.schedule.falling
        while self._part + 1 < len(parts):
            if not self._rising:
                self._rising = sigma <= parts[self._part][-1] * (1 + ROUNDING)
                return
            if sigma < parts[self._part + 1][0] * (1 - ROUNDING):
                return
            self._part, self._rising = self._part + 1, False

    def step(self, sigma: float) -> Step | None:
        """The step of this call, as `Step.find`; None where noise rises."""
        schedule = self.schedule
        if self._rising or not schedule.sigmas:
            return None
        return Step.find(sigma, schedule.falling[self._part], schedule.window, schedule.noise)

    def progress(self, sigma: float) -> float:
        """The share of the steps before this call, in [0, 1]."""
        parts = self.schedule.falling
        here = parts[self._part] if parts else ()
        done = sum(map(len, parts[: self._part])) + sum(s > sigma * (1 + ROUNDING) for s in here)
        return done / max(len(self.schedule.sigmas) - 1, 1)


@dataclass(frozen=True)
class Execution:
    """How guidance is carried out.

    Arguments:
        record: Whether to keep a trace.
        budget: How many bytes of device memory the references may use. If they need more, they are
            streamed to the device.
        workers: The processes that draw the batch. All of them make the same calls.
        check: Is called often during long computations. It may raise an exception to stop, but
            then in all workers: the others would wait for it.
    """

    record: bool = False
    budget: float = math.inf
    workers: Workers = ALONE
    check: Callable[[], None] = never_stopped


PLAIN = Execution()
