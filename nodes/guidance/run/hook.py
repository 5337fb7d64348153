"""Puts guidance on a model: two wrappers on a clone, which ComfyUI calls in every run of it.

The wrapper of SAMPLER_SAMPLE begins and finishes a `GuidedRun`, once everything is on the device.
The wrapper of PREDICT_NOISE passes every denoised estimate to it. ComfyUI copies the model options
for each run, and the `GuidedRun` is stored in that copy, so it ends with the run even after an
error.
"""

import uuid
from collections.abc import Callable
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy.samplers import CFGGuider
from torch import Tensor

from ...host.faults import with_memory_advice
from ...host.progress import BatchPreview
from .checks import check_settings
from .compared_part import compared_part
from .guided_run import GuidedRun
from .problems import SEVERAL_KINDS
from .request import Request
from .run_mask import RunMask
from .session import Session
from .unconditional import Unconditional

KEY = "mmd_guidance_"  # the first part of the wrappers' names


def apply_guidance(model: ModelPatcher, request: Request, grouped: bool = False) -> ModelPatcher:
    """A clone of `model` that is guided; with strength 0 its runs are only recorded.

    Arguments:
        model: The model. It is not changed.
        request: What the node asks for.
        grouped: Whether the runs of this model are groups of one batch.

    Raises:
        ValueError: The settings do not fit the references or the base images, and the strength is
            not 0. When a run starts: the references do not fit it, or the memory cannot be read.
    """
    if request.guides:
        check_settings(request)
    if request.idle:
        return model
    group = Session(request.memory) if grouped else None
    key = f"{KEY}{uuid.uuid4().hex}"  # unique, so that nodes can be chained

    def start_run(
        executor: WrapperExecutor,
        guider: CFGGuider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        inner_model = guider.inner_model
        references = request.references.latents
        part = compared_part(guider, noise, inner_model.latent_format, references)
        if request.preview_batch and part is not None:
            latent_format = inner_model.latent_format
            callback = BatchPreview(callback, noise.device, latent_format, part.pictures)
        rest = callback, noise, latent_image, denoise_mask, disable_pbar
        if part is None:
            if request.trace is not None:
                request.trace.begin()
            if request.guides or request.memory is not None:
                request.tell(SEVERAL_KINDS)
            return executor(guider, sigmas, extra_args, *rest)
        session = group or Session(request.memory)
        mask = None
        if denoise_mask is not None and latent_image is not None:
            changes = extra_args["model_options"].get("denoise_mask_function")
            mask = RunMask(denoise_mask, latent_image, sigmas, changes)
            part = part.within(denoise_mask)
        run = GuidedRun(request, session, inner_model, part, latent_image, mask)
        options = extra_args["model_options"]["transformer_options"]
        run.begin(guider, executor.class_obj, sigmas, noise, options)
        options[key] = run
        samples = executor(guider, sigmas, session.seeded(extra_args), *rest)
        run.finish(samples, sigmas)
        return samples

    def predict(
        executor: WrapperExecutor,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 (ComfyUI's signature)
        seed: int | None = None,
    ) -> Tensor:
        run = model_options.get("transformer_options", {}).get(key)
        if run is None:
            return executor(x, timestep, model_options, seed)
        # Read before the model is queued: later the host would have to wait for the model.
        sigma = float(timestep.flatten()[0])
        run.ask_prompts(executor.class_obj, len(x), sigma)
        unconditional = Unconditional()
        if run.compares_with_prompt:
            model_options = unconditional.kept_by(model_options)
        x0 = executor(x, timestep, model_options, seed)
        return run.denoised(x0, x, sigma, executor.class_obj, unconditional)

    guided = model.clone()
    wrapper = with_memory_advice(start_run, request.node)
    _add_outermost(guided, WrappersMP.SAMPLER_SAMPLE, key, wrapper)
    _add_outermost(guided, WrappersMP.PREDICT_NOISE, key, predict)
    return guided


def is_coupled(model: ModelPatcher) -> bool:
    """Whether the model has MMD guidance."""
    return any(str(key).startswith(KEY) for key in model.wrappers.get(WrappersMP.PREDICT_NOISE, {}))


def _add_outermost(model: ModelPatcher, kind: str, key: str, wrapper: Callable) -> None:
    """Adds a wrapper around all others.

    Wrappers that skip model calls then cache the unguided estimate.
    """
    wrappers = model.wrappers.setdefault(kind, {})
    others = dict(wrappers)
    wrappers.clear()
    wrappers[key] = [wrapper]
    wrappers.update(others)
