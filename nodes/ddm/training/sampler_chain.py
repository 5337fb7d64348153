"""ComfyUI's samplers as linear chains."""

import inspect
from types import SimpleNamespace

import comfy.samplers
import torch

from ....mmd_core.ddm import LinearChain

__all__ = ["chain_of", "schedule"]

CALLS = 4  # more than any sampler asks in a step


def schedule(model, sampler_name: str, scheduler: str, steps: int) -> torch.Tensor:
    """The noise levels that KSampler goes through."""
    sampling = comfy.samplers.KSampler(
        model, steps, torch.device("cpu"), sampler_name, scheduler, 1.0, {}
    )
    return sampling.sigmas.float().cpu()


def chain_of(model, sampler_name: str, scheduler: str, steps: int) -> LinearChain:
    """What a sampler does in so many steps.

    Raises:
        ValueError: It is not linear in what the model says, or the schedule does not end without noise.
    """
    sigmas = schedule(model, sampler_name, scheduler, steps)
    if sigmas[-1] != 0:
        raise ValueError(
            f"the schedule {scheduler} does not end at 0: set scheduler to sgm_uniform"
        )
    sampler = comfy.samplers.sampler_object(sampler_name)
    takes_noise = "noise_sampler" in inspect.signature(sampler.sampler_function).parameters

    def run(denoise, x, noise_sampler):
        def called(x, sigma, **_):
            return denoise(x, sigma)

        asked, levels = _Asked(called, model), sigmas.to(x, copy=True)
        options = dict(sampler.extra_options)
        if takes_noise:
            options["noise_sampler"] = noise_sampler
        extra = {"seed": 0, "model_options": {}, "denoise_mask": None}
        found = sampler.sampler_function(
            asked, x, levels, extra_args=extra, callback=None, disable=True, **options
        )
        sampling = asked.inner_model.inner_model.model_sampling
        return sampling.inverse_noise_scaling(levels[-1], found)  # uni_pc writes into its levels

    try:
        if "cfg_pp" in sampler_name:  # nothing else tells it
            raise ValueError("it uses the estimates with and without prompt apart from each other")
        try:
            return LinearChain.of(run, CALLS * steps + 1)
        except ValueError:
            return LinearChain.of(run, CALLS * steps + 1, torch.float32)
    except ValueError as error:
        raise ValueError(
            f"{sampler_name} cannot be trained through, since {error}: set sampler_name to euler, ddim, dpmpp_2m, lcm "
            "or euler_ancestral"
        ) from error


class _Asked:
    """What samplers expect of a model besides an answer."""

    def __init__(self, answer, model):
        sampling = model.get_model_object("model_sampling")
        network = SimpleNamespace(
            model_sampling=sampling, latent_format=model.get_model_object("latent_format")
        )
        self.answer = answer
        self.inner_model = SimpleNamespace(
            inner_model=network, model_patcher=model, model_options={}
        )

    def __call__(self, x, sigma, **options):
        return self.answer(x, sigma, **options)
