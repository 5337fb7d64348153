"""The noise level of a model call, and the step of the schedule that it begins.

Noise models: x = x0 + σ·n (eps, v and EDM models as samplers see them), or x = (1 − σ)·x0 + σ·n
(flow matching), with n of standard deviation s, which is 1 for nearly all models. The second
becomes the first if x and σ are divided by 1 − σ, and it is treated that way.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["NoiseModel", "Step", "Window", "cfg_pp_carry", "euler_carry", "euler_cfg_pp_carry"]


class NoiseModel(NamedTuple):
    """The relation of a model's σ to signal and noise.

    Arguments:
        flow_matching: Whether x = (1 − σ)·x0 + σ·n; otherwise x = x0 + σ·n.
        sigma_data: The standard deviation that the model assumes for latents.
        scale: The standard deviation s of n.
    """

    flow_matching: bool = False
    sigma_data: float = 1.0
    scale: float = 1.0

    def signal(self, sigma: float) -> float:
        """The factor of x0 in x."""
        return 1 - sigma if self.flow_matching else 1.0

    def deviation(self, sigma: float) -> float:
        """The standard deviation of the noise in x."""
        return self.scale * sigma

    def level(self, sigma: float) -> float:
        """The noise per unit of signal; infinite if there is no signal."""
        signal = self.signal(sigma)
        return self.deviation(sigma) / signal if signal > 0 else math.inf

    def published_scale(self, sigma: float) -> float:
        """The factor from x to the paper's noisy latent, whose variance does not grow with σ.

        With flow matching this is x itself if s is 1. For another s it is the x that a model of
        s = 1 has at this `level`.
        """
        if not self.flow_matching:
            return self.sigma_data / math.hypot(self.sigma_data, self.deviation(sigma))
        return 1.0 if self.scale == 1 else 1 / (self.signal(sigma) + self.deviation(sigma))


class Window(NamedTuple):
    """The noise levels at which guidance acts, from `start` down to `end`.

    Of a step that is partly outside the window, only the part inside counts (`Step.rate`).
    """

    start: float
    end: float


class Step(NamedTuple):
    """The step that a sampler takes from one model call.

    Attributes:
        sigma: σ of the call.
        sigma_next: σ', the next lower value of the schedule.
        fraction: 1 − σ'/σ. A change of x̂0, times this factor, is the change of x in an Euler step.
        rate: 1 − level(b)/level(a), in ]0, 1], where a and b are the first and last σ of the part
            of the step that is inside the window. Guidance of strength λ runs for the time λ ·
            rate.
        signal: The factor of x0 in x at σ'.
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
        """The step from `sigma` down the schedule; None outside the window or on the last step.

        Samplers also call the model between the values of the schedule. σ' is then the next lower
        value of the schedule.

        Arguments:
            sigma: The noise level of the call.
            sigmas: The noise schedule, decreasing.
            window: The noise levels at which guidance acts.
            noise: The model's noise.
        """
        # Schedules are float32: a call at a value of the schedule, up to rounding, must not find
        # this value as the next one.
        sigma_next = max((s for s in sigmas if s < sigma * (1 - 1e-5)), default=0.0)
        top, bottom = min(sigma, window.start), max(sigma_next, window.end)
        if sigma_next <= 0 or bottom >= top:
            return None
        level = noise.level(top)
        rate = 1 - noise.level(bottom) / level if level < math.inf else 1.0
        return cls(sigma, sigma_next, 1 - sigma_next / sigma, rate, noise.signal(sigma_next))


# The carry of a sampler: a change of x̂0, times this factor, is the change of x in one step.


def euler_carry(step: Step) -> float:
    """The carry of Euler's method, x' = x̂0 + (x − x̂0)·σ'/σ, and of samplers that are similar."""
    return step.fraction


def cfg_pp_carry(step: Step) -> float:
    """The carry of CFG++ (https://arxiv.org/abs/2406.08070), x' = x̂0 + (x − u)·σ'/σ.

    The direction comes from the unconditional estimate u, which guidance does not change.
    """
    return 1.0


def euler_cfg_pp_carry(step: Step) -> float:
    """The carry of CFG++ in ComfyUI's euler_cfg_pp, where x' contains α'·x̂0.

    α' is the factor of the signal at σ'.
    """
    return step.signal
