"""ComfyUI's samplers as linear chains."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import comfy.samplers
import torch
from torch import Tensor

from ....mmd_core.ddm import LinearChain

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

__all__ = ["SamplerSettings", "linear_chain", "schedule"]

MAX_CALLS_PER_STEP = 4  # no sampler of ComfyUI calls the model more often in one step


@dataclass(frozen=True)
class SamplerSettings:
    """The sampler for which a model is trained.

    Attributes:
        sampler_name: The name of the sampler, as in KSampler.
        scheduler: The name of the schedule, as in KSampler.
        steps: The number of steps.
        jitter: Training also uses up to this many steps more and fewer.
    """

    sampler_name: str
    scheduler: str
    steps: int
    jitter: int

    @property
    def step_counts(self) -> tuple[int, ...]:
        """The numbers of steps in training, each at least 1. `steps` is the first."""
        counts = {
            max(1, count) for count in range(self.steps - self.jitter, self.steps + self.jitter + 1)
        }
        return (self.steps, *sorted(counts - {self.steps}))


def schedule(model: ModelPatcher, sampler_name: str, scheduler: str, steps: int) -> Tensor:
    """The noise levels σ of KSampler, with shape `(steps + 1,)` for most samplers."""
    sampling = comfy.samplers.KSampler(
        model, steps, torch.device("cpu"), sampler_name, scheduler, 1.0, {}
    )
    return sampling.sigmas.float().cpu()


def linear_chain(model: ModelPatcher, sampler_name: str, scheduler: str, steps: int) -> LinearChain:
    """The linear map of a sampler with this number of steps.

    Raises:
        ValueError: The sampler is not linear in the estimates of the model, or the schedule does
            not end at 0.
    """
    sigmas = schedule(model, sampler_name, scheduler, steps)
    if sigmas[-1] != 0:
        raise ValueError(
            f"the schedule {scheduler} does not end at 0: set scheduler to sgm_uniform"
        )
    sampler = comfy.samplers.sampler_object(sampler_name)
    takes_noise = "noise_sampler" in inspect.signature(sampler.sampler_function).parameters

    def run(denoise: Callable, x: Tensor, noise_sampler: Callable) -> Tensor:
        denoiser, levels = _Denoiser(denoise, model), sigmas.to(x, copy=True)
        options = dict(sampler.extra_options)
        if takes_noise:
            options["noise_sampler"] = noise_sampler
        extra = {"seed": 0, "model_options": {}, "denoise_mask": None}
        found = sampler.sampler_function(
            denoiser, x, levels, extra_args=extra, callback=None, disable=True, **options
        )
        sampling = denoiser.inner_model.inner_model.model_sampling
        return sampling.inverse_noise_scaling(levels[-1], found)  # uni_pc changes `levels`

    max_calls = MAX_CALLS_PER_STEP * steps + 1
    try:
        if "cfg_pp" in sampler_name:  # only the name shows it
            raise ValueError("it uses the estimates with and without the prompt separately")
        try:
            return LinearChain.of(run, max_calls)
        except ValueError:
            return LinearChain.of(run, max_calls, torch.float32)
    except ValueError as error:
        raise ValueError(
            f"{sampler_name} cannot be used in training, because {error}: set sampler_name to "
            "euler, ddim, dpmpp_2m, lcm or euler_ancestral"
        ) from error


class _Denoiser:
    """`denoise(x, sigma)` with the attributes that ComfyUI's samplers read from a model."""

    def __init__(self, denoise: Callable, model: ModelPatcher) -> None:
        sampling = model.get_model_object("model_sampling")
        network = SimpleNamespace(
            model_sampling=sampling, latent_format=model.get_model_object("latent_format")
        )
        self.denoise = denoise
        self.inner_model = SimpleNamespace(
            inner_model=network, model_patcher=model, model_options={}
        )

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return self.denoise(x, sigma)
