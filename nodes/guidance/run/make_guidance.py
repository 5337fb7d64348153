"""Makes the guidance of one run from ComfyUI's model and sampler."""

from collections.abc import Callable

import torch
from comfy.model_base import BaseModel
from torch import Tensor

from ....mmd_core import (
    Base,
    Execution,
    Guidance,
    GuidanceConfig,
    Latents,
    Memory,
    NoiseModel,
    Schedule,
    Window,
)
from ....mmd_core.comparison.noise import Step, cfg_pp_carry, euler_carry, euler_cfg_pp_carry
from .request import Request


def make_schedule(
    inner_model: BaseModel,
    noise: NoiseModel,
    config: GuidanceConfig,
    sampler: object,
    sigmas: Tensor,
) -> Schedule:
    """The noise levels of a run.

    Arguments:
        inner_model: ComfyUI's model.
        noise: The model's noise.
        config: The settings, which say where guidance acts.
        sampler: ComfyUI's sampler.
        sigmas: The noise schedule, with shape `(steps + 1,)`.
    """
    sampling = inner_model.model_sampling
    return Schedule(
        tuple(sigmas.tolist()),
        Window(
            float(sampling.percent_to_sigma(config.start_percent)),
            float(sampling.percent_to_sigma(config.end_percent)),
        ),
        noise,
        carry_of(sampler),
    )


def carry_of(sampler: object) -> Callable[[Step], float]:
    """The carry of one of ComfyUI's samplers, which is known by the name of its function."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    if "cfg_pp" not in name:
        return euler_carry
    return euler_cfg_pp_carry if "euler" in name else cfg_pp_carry


def make_guidance(
    inner_model: BaseModel,
    request: Request,
    schedule: Schedule,
    noise: Tensor,
    memory: Memory | None,
    budget: float,
    known: Tensor | None = None,
) -> Guidance:
    """The guidance of one run, on the device and in the space of `noise`.

    Arguments:
        inner_model: ComfyUI's model.
        request: What the node asks for.
        schedule: The noise levels of the run.
        noise: The noise of the run, with shape `(B, *shape)`.
        memory: Samples finished earlier, or None.
        budget: How many bytes of device memory the references may use.
        known: As in `Guidance`.
    """
    references = request.references
    dtype = torch.promote_types(noise.dtype, torch.float32)

    def prepare(latents: Tensor) -> Tensor:
        frame = latents.ndim < noise.ndim  # video models take images as one frame
        return inner_model.process_latent_in(latents.unsqueeze(2) if frame else latents)

    base = None
    if request.base is not None:
        latents, weights = (
            part.to(noise.device, dtype) for part in (request.base.latents, request.base.weights)
        )
        base = Base(prepare(latents), weights, request.base.prompts)
    return Guidance(
        request.config.for_batch(len(noise), contrast=base is not None),
        Latents(references.latents, references.weights.to(noise.device, dtype), prepare),
        schedule,
        memory,
        references.prompts if request.compares_prompts else None,
        Execution(request.trace is not None, budget),
        base,
        known,
    )
