"""Error messages for users when a run fails: NaN or infinite numbers, or out of memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.model_management as management
from torch import Tensor

from ...mmd_core.comparison import full_memory
from ...mmd_core.guidance.guidance import NotFinite
from ..base.log import log
from .micro_batch import AT_ONCE, separable

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from comfy.patcher_extension import WrapperExecutor
    from comfy.samplers import CFGGuider


def broken(latents: Tensor) -> list[int]:
    """The images that hold NaN or infinite numbers, counted from 1.

    `latents` has shape `(B, *)`.
    """
    return [i + 1 for i, ok in enumerate(latents.isfinite().flatten(1).all(1).tolist()) if not ok]


def listed(images: list[int]) -> str:
    """The image numbers as text, for messages; at most 10 of them."""
    more = f" and {len(images) - 10} more" if len(images) > 10 else ""
    return f"image{'s' * (len(images) > 1)} {', '.join(map(str, images[:10]))}{more}"


def explained(error: NotFinite, x: Tensor) -> str:
    """Where the NaN comes from, and how to fix it.

    `x` is the model's input, with shape `(B, *)`.
    """
    given = broken(x)
    if given:
        return (
            f"the noisy latents of {listed(given)} hold NaN or infinite numbers at sigma "
            f"{error.sigma:.4g}, before the model saw them: look for them in latent_image and its "
            "mask, and take another sampler or a lower strength"
        )
    return (
        f"the model returned NaN or infinite numbers for {listed(error.images)} at sigma "
        f"{error.sigma:.4g}, before guidance touched them. Its checkpoint may be damaged, or may "
        "not work in this precision: start ComfyUI with --force-upcast-attention or --force-fp32, "
        "and leave out LoRAs and other patches one by one"
    )


def check_latent_image(latent_image: Tensor | None, node: str) -> None:
    """Checks the latents that a run starts from.

    Raises:
        ValueError: They hold NaN or infinite numbers.
    """
    found = [] if latent_image is None else broken(latent_image)
    if found:
        raise ValueError(
            f"{node}: latent_image holds NaN or infinite numbers ({listed(found)}). Connect "
            "another one, or if a VAE encoded it, start ComfyUI with --fp32-vae."
        )


def out_of_memory(error: Exception) -> bool:
    """Whether memory has run out, on any device. ComfyUI knows the errors of CUDA."""
    known = getattr(management, "is_oom", lambda error: False)  # older versions have none
    return full_memory.out_of_memory(error) or known(error)


def less_memory(inner_model: BaseModel, noise: Tensor, transformer_options: dict[str, Any]) -> str:
    """Advice for the user: how to sample this batch with less memory."""
    at_once = min(len(noise), transformer_options.get(AT_ONCE, len(noise)))
    fewer = (
        "draw fewer images at once (batch_size, or group_size of MMDGuidedKSampler) or smaller ones"
    )
    if at_once == 1 or not separable(inner_model, noise.shape):
        return f"{fewer[0].upper()}{fewer[1:]}."
    return (
        f"Set micro_batch to {at_once // 2}, now {at_once} images go through the model at once: "
        f"guidance still sees the whole batch. If 1 is not enough, {fewer}."
    )


def with_memory_advice(start_run: Callable[..., Tensor], node: str) -> Callable[..., Tensor]:
    """Adds advice about memory to the SAMPLER_SAMPLE wrapper `start_run`.

    If memory runs out, the result logs how to fix it, and raises the error again.
    """

    @functools.wraps(start_run)
    def run_with_advice(
        executor: WrapperExecutor, guider: CFGGuider, sigmas: Tensor, extra_args: dict[str, Any],
        callback: Callable[..., None] | None, noise: Tensor, *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        try:
            return start_run(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs)
        except Exception as error:
            if out_of_memory(error):
                options = extra_args["model_options"]["transformer_options"]
                text = less_memory(guider.inner_model, noise, options)
                log.error("%s: the memory is not enough for this run. %s", node, text)
            raise

    return run_with_advice
