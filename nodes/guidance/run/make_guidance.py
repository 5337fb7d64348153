"""Makes the guidance of one run from ComfyUI's model and sampler."""

import math
from collections import Counter
from collections.abc import Callable

import comfy.model_management
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
from ....mmd_core.guidance.kept import alike
from .compared_part import ComparedPart
from .request import Request

HIDING = 10.0  # noise per unit of signal; some schedules begin there with a denoise of 1
ROUNDING = 1e-5  # relative difference of noise levels that count as equal


def make_schedule(
    inner_model: BaseModel,
    noise: NoiseModel,
    config: GuidanceConfig,
    sampler: object,
    sigmas: Tensor,
    goes_on: bool,
) -> Schedule:
    """The noise levels of a run.

    Arguments:
        inner_model: ComfyUI's model.
        noise: The model's noise.
        config: The settings, which say where guidance acts.
        sampler: ComfyUI's sampler.
        sigmas: The noise schedule, with shape `(steps + 1,)`.
        goes_on: As in `Schedule`.
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
        goes_on,
    )


def starts_in_noise(inner_model: BaseModel, noise: NoiseModel, sigmas: Tensor) -> bool:
    """Whether the noise at which a run starts hides from what it starts, as with a denoise of 1.

    Arguments:
        inner_model: ComfyUI's model.
        noise: The model's noise.
        sigmas: The noise schedule, with shape `(steps + 1,)`.
    """
    first = float(sigmas[0]) if len(sigmas) else math.inf
    highest = float(inner_model.model_sampling.sigma_max)
    return first >= highest * (1 - ROUNDING) or noise.level(first) >= HIDING


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
    part: ComparedPart,
    pictures: Tensor,
    memory: Memory | None,
    budget: float,
    known: Tensor | None = None,
    latent_image: Tensor | None = None,
    begun: Tensor | None = None,
) -> Guidance:
    """The guidance of one run, on the device and in the space of `pictures`.

    Arguments:
        inner_model: ComfyUI's model.
        request: What the node asks for.
        schedule: The noise levels of the run.
        part: What of the latents is compared with the references.
        pictures: The noise of the run as `ComparedPart.whole` has it, with shape `(B, C, *)`.
        memory: What is compared of samples finished earlier, or None.
        budget: How many bytes of device memory the references may use.
        known: As in `Guidance`.
        latent_image: The latents of which a mask keeps a part, or None.
        begun: The pictures from which the run starts, as `ComparedPart.whole` has them, or None.
    """
    check = comfy.model_management.throw_exception_if_processing_interrupted
    references = request.references
    dtype, size = torch.promote_types(pictures.dtype, torch.float32), pictures.shape[-2:]

    def whole(latents: Tensor) -> Tensor:
        check()  # each piece of the references comes here
        frame = latents.ndim < pictures.ndim  # video models take images as one frame
        latents = inner_model.process_latent_in(latents.unsqueeze(2) if frame else latents)
        return part.still(latents)

    def prepare(latents: Tensor) -> Tensor:
        return part.cut(whole(latents))

    stored = request.latents_at(references, size)
    weights = references.weights.to(pictures.device, dtype)
    similar = None
    if part.open is not None and latent_image is not None:
        kept = part.open.kept(part.whole(latent_image).to(dtype))
        kept = kept.expand(len(pictures), *kept.shape[1:])
        similar = alike(kept, Latents(stored, weights, lambda y: part.open.kept(whole(y))))
    base = None
    if request.base is not None:
        latents = request.latents_at(request.base, size).to(pictures.device, dtype)
        of_base = request.base.weights.to(pictures.device, dtype)
        pairs = partners(references.names, request.base.names)
        base = Base(prepare(latents), of_base, request.base.prompts, pairs)
    return Guidance(
        request.config.for_batch(len(pictures), contrast=base is not None),
        Latents(stored, weights, prepare),
        schedule,
        memory,
        references.prompts if request.compares_prompts else None,
        Execution(request.trace is not None, budget, check=check),
        base,
        known,
        similar,
        None if begun is None else part.cut(begun).to(weights),
    )


def partners(references: tuple[str, ...], base: tuple[str, ...]) -> Tensor:
    """The index of the reference of the same name for each base image, −1 where there is not one.

    MMDBaseImages gives base images the names of the references for whose captions they were drawn.
    """
    often = Counter(references)
    single = {name: j for j, name in enumerate(references) if often[name] == 1}
    return torch.tensor([single.get(name, -1) for name in base])
