"""Where a model call stands in the noise schedule, and how far its step goes.

Noise models: x = x0 + σ·n (eps, v, EDM models as samplers see them), or x = (1 − σ)·x0 + σ·n (flow
matching). The second is the first with x / (1 − σ) and σ / (1 − σ), which is how it is treated.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["NoiseModel", "Step", "Window", "cfg_pp_carry", "euler_carry", "euler_cfg_pp_carry"]


class NoiseModel(NamedTuple):
    """How a model's σ relates to signal and noise.

    Arguments:
        flow_matching: Whether x = (1 − σ)·x0 + σ·n.
        sigma_data: The standard deviation of latents that the model assumes.
    """

    flow_matching: bool = False
    sigma_data: float = 1.0

    def signal(self, sigma: float) -> float:
        """The share of x0 in x."""
        return 1 - sigma if self.flow_matching else 1.0

    def level(self, sigma: float) -> float:
        """The noise per unit of signal."""
        signal = self.signal(sigma)
        return sigma / signal if signal > 0 else math.inf

    def published_scale(self, sigma: float) -> float:
        """What turns x into the noisy latent of the paper, whose variance does not grow with σ."""
        return 1.0 if self.flow_matching else self.sigma_data / math.hypot(self.sigma_data, sigma)


class Window(NamedTuple):
    """The noise levels where guidance acts, from start down to end; a step counts as far as it lies there."""

    start: float
    end: float


class Step(NamedTuple):
    """The step that a sampler takes from one model call.

    Attributes:
        sigma: σ of the call.
        sigma_next: σ', the next lower value of the schedule.
        fraction: 1 − σ'/σ: an Euler step carries a change of x̂0 into x by this factor.
        rate: The step's length in log-noise time, as far as it lies in the window, in ]0, 1].
        signal: The share of x0 in x on arrival.
    """

    sigma: float
    sigma_next: float
    fraction: float
    rate: float
    signal: float

    @classmethod
    def find(
        cls, sigma: float, sigmas: Sequence[float], window: Window, noise: NoiseModel
    ) -> "Step | None":
        """The step from `sigma` down the schedule `sigmas`; None outside the window or on the last step.

        Samplers also call the model between the values of the schedule: σ' is the next lower value.
        """
        # Schedules are float32: a call at a schedule value must not take that value for the next.
        sigma_next = max((s for s in sigmas if s < sigma * (1 - 1e-5)), default=0.0)
        top, bottom = min(sigma, window.start), max(sigma_next, window.end)
        if sigma_next <= 0 or bottom >= top:
            return None
        level = noise.level(top)
        rate = 1 - noise.level(bottom) / level if level < math.inf else 1.0
        return cls(sigma, sigma_next, 1 - sigma_next / sigma, rate, noise.signal(sigma_next))


# By which factor a change of x̂0 enters x in one step of a sampler.


def euler_carry(step: Step) -> float:
    """x' = x̂0 + (x − x̂0)·σ'/σ, and whatever comes close to it."""
    return step.fraction


def cfg_pp_carry(step: Step) -> float:
    """CFG++ (https://arxiv.org/abs/2406.08070) takes the direction from the unconditional estimate u, which does
    not change: x' = x̂0 + (x − u)·σ'/σ."""
    return 1.0


def euler_cfg_pp_carry(step: Step) -> float:
    """The same where the signal's share is counted, as in ComfyUI's euler_cfg_pp: x' = α'·x̂0 + …"""
    return step.signal
