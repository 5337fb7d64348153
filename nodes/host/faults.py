"""What breaks a run, in the user's words: numbers that are not finite, memory that runs out."""

import functools
import logging

import comfy.model_management as management
from torch import Tensor

from ...mmd_core.guidance.guidance import NotFinite
from .micro_batch import AT_ONCE, separable

log = logging.getLogger("mmd_guidance")


def broken(latents: Tensor) -> list[int]:
    """Which images hold NaN or infinite numbers, counted from 1, of `(B, *)`."""
    return [i + 1 for i, ok in enumerate(latents.isfinite().flatten(1).all(1).tolist()) if not ok]


def listed(images: list[int]) -> str:
    """The images, for people."""
    more = f" and {len(images) - 10} more" if len(images) > 10 else ""
    return f"image{'s' * (len(images) > 1)} {', '.join(map(str, images[:10]))}{more}"


def explained(error: NotFinite, x: Tensor) -> str:
    """Whose NaN it is, and the mend; `x` is what the model was asked, with shape `(B, *)`."""
    given = broken(x)
    if given:
        return (
            f"the noisy latents of {listed(given)} hold NaN or infinite numbers at sigma {error.sigma:.4g}, before the "
            "model saw them: look for them in latent_image and its mask, and take another sampler or a lower strength"
        )
    return (
        f"the model returned NaN or infinite numbers for {listed(error.images)} at sigma {error.sigma:.4g}, before "
        "guidance touched them. Its checkpoint may be damaged, or not run in this precision: start ComfyUI with "
        "--force-upcast-attention or --force-fp32, and leave out LoRAs and other patches one by one"
    )


def check_latent_image(latent_image: Tensor | None, node: str) -> None:
    """Raises ValueError if the run begins with numbers that are not finite."""
    found = [] if latent_image is None else broken(latent_image)
    if found:
        raise ValueError(
            f"{node}: latent_image holds NaN or infinite numbers ({listed(found)}). Connect another one, or if a VAE "
            "encoded it, start ComfyUI with --fp32-vae."
        )


def out_of_memory(error: Exception) -> bool:
    """Whether ComfyUI takes it for memory that ran out."""
    known = getattr(management, "is_oom", None)  # older versions ask for the type
    return isinstance(error, management.OOM_EXCEPTION) if known is None else known(error)


def mend(inner_model, noise: Tensor, transformer_options: dict) -> str:
    """How a batch would take less memory."""
    at_once = min(len(noise), transformer_options.get(AT_ONCE, len(noise)))
    fewer = (
        "draw fewer images at once (batch_size, or group_size of MMDGuidedKSampler) or smaller ones"
    )
    if at_once == 1 or not separable(inner_model, noise.shape):
        return f"{fewer[0].upper()}{fewer[1:]}."
    return (
        f"Set micro_batch to {at_once // 2}, now {at_once} images go through the model at once: guidance still sees "
        f"the whole batch. If 1 is not enough, {fewer}."
    )


def telling_the_mend(start_run, node: str):
    """The wrapper `start_run` of SAMPLER_SAMPLE; the log has a mend if memory runs out, and ComfyUI the error."""

    @functools.wraps(start_run)
    def told(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        try:
            return start_run(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs)
        except Exception as error:
            if out_of_memory(error):
                options = extra_args["model_options"]["transformer_options"]
                text = mend(guider.inner_model, noise, options)
                log.error("%s: the memory is not enough for this run. %s", node, text)
            raise

    return told
