"""The hook between ComfyUI's samplers and `mmd_core`: the only reader of guiders and model options.

Two wrappers are put on a clone of the model. SAMPLER_SAMPLE sets up one run, once everything is on
the device; PREDICT_NOISE edits the denoised estimate that the sampler is about to use. The run's state
lies in the run's own copy of the model options and dies with it, however the run ends.
"""

import logging
import math
import uuid
from collections.abc import Callable

import comfy.model_sampling
import torch
from comfy.patcher_extension import WrappersMP

from ....mmd_core import (
    Guidance,
    GuidanceConfig,
    Latents,
    Memory,
    NoiseModel,
    References,
    Window,
)
from ....mmd_core.comparison.noise import cfg_pp_carry, euler_carry, euler_cfg_pp_carry
from ....mmd_core.guidance.guidance import NotFinite
from ...host.device_memory import room
from ...host.faults import check_latent_image, explained, telling_the_mend
from ...host.progress import BatchPreview, show_text
from ...host.prompts import batch_features, entry_feature, positive_entries
from ...host.vae_match import wrong_vae
from .report import (
    FEW_IMAGES,
    ending,
    remarks,
    status,
    summary,
)
from .session import Session
from .shared_memory import SharedMemory
from .trace import Trace

KEY = "mmd_guidance_"  # what the names of the wrappers begin with
log = logging.getLogger("mmd_guidance")


class Run:
    """Guidance of one sampling run, fed from a guider; `node_id` is where its state is shown."""

    def __init__(self, guidance, latent_image, mask, node_id):
        self.guidance, self.latent_image, self.mask = guidance, latent_image, mask
        self.node_id, self.prompts, self.broken = node_id, None, False

    def denoised(self, x0, x, sigma: float, guider):
        """The guided estimate; what a mask keeps is compared as it will be, and not changed."""
        if self.guidance.prompts is not None:
            active = batch_features(positive_entries(guider), len(x0), sigma)
            self.prompts = self.prompts if active is None else active
        seen = x0
        if self.mask is not None:
            seen = x0 * self.mask + self.latent_image * (1 - self.mask)
        guided = self.guidance(seen, x, sigma, self.prompts)
        rows = self.guidance.trace
        if rows:
            show_text(status(rows[-1]), self.node_id)
        return guided if self.mask is None else x0 + (guided - seen).to(x0.dtype)


def apply_guidance(
    model,
    references: References,
    config: GuidanceConfig,
    node: str,
    trace: Trace | None = None,
    memory: SharedMemory | None = None,
    grouped: bool = False,
    preview_batch: bool = False,
    node_id: str | None = None,
):
    """A clone of `model` that is guided towards `references`, or with strength 0 looked at.

    Arguments:
        node: The name of the node, for messages.
        trace: Where to record what guidance does.
        memory: What other runs share with the runs of this model.
        grouped: Whether the runs of this model are groups of one batch.
        preview_batch: Whether the sampler's preview shows the whole batch.
        node_id: The node on which to show what happens.

    Raises:
        ValueError: A prompt kernel without captions; when a run starts, references that do not fit it, or a
            memory that cannot be read.
    """
    check_captions(references, config, node)
    if config.strength == 0 and trace is None and memory is None and not preview_batch:
        return model
    group = Session(memory) if grouped else None
    key = f"{KEY}{uuid.uuid4().hex}"  # unique, so that nodes can be chained

    def start_run(
        executor, guider, sigmas, extra_args, callback, noise,
        latent_image=None, denoise_mask=None, disable_pbar=False,
    ):  # fmt: skip
        latent_format = guider.inner_model.latent_format
        if preview_batch:
            callback = BatchPreview(callback, noise.device, latent_format)
        rest = callback, noise, latent_image, denoise_mask, disable_pbar
        inner, session, prompts = guider.inner_model, group or Session(memory), None
        if noise.ndim == 3 and latent_format.latent_dimensions >= 2:
            forgotten = "" if memory is None else " and not remembered"
            log.warning(
                "%s: latents of several kinds at once are drawn without guidance%s.",
                node,
                forgotten,
            )
            return executor(guider, sigmas, extra_args, *rest)
        options = extra_args["model_options"]["transformer_options"]
        if trace is not None:
            trace.begin()
        fits = True
        if config.strength > 0:
            check_latent_image(latent_image, node)
        try:
            check_fit(references, noise, latent_format, node)
            if config.kernel_config.prompt_kernel != "none":
                check_prompts(references, positive_entries(guider), node)
                prompts = references.prompts.shape[1]
        except ValueError:
            if config.strength > 0:
                raise
            fits = False  # nothing is asked of them
        run = None
        if fits:
            try:
                earlier, recalled = session.recall(inner, noise, prompts)
            except ValueError as error:
                raise ValueError(f"{node}: memory: {error}") from error
            guidance = make_guidance(
                inner, references, config, sigmas, noise, earlier, trace is not None,
                carry_of(executor.class_obj), room(inner, noise, options),
            )  # fmt: skip
            if guidance.config.companions and config.strength > 0:
                log.warning("%s: %s", node, FEW_IMAGES.text)
            for notice in recalled.notices:
                say(trace, node, logging.WARNING, "memory", notice)
            if trace is not None and not trace.runs and recalled.latents is not None:
                trace.remembered = len(recalled.latents)
            run = Run(guidance, latent_image, denoise_mask, node_id)
            options[key] = run
        if session.runs:
            # Each group needs noise of its own: stochastic samplers seed it with the run's seed.
            seed = (extra_args.get("seed") or 0) + session.runs
            extra_args = {**extra_args, "seed": seed % 2**64}
        session.runs += 1
        samples = executor(guider, sigmas, extra_args, *rest)
        record = None
        if trace is not None and run is not None:  # first, lest it fails once they are remembered
            finished = Memory(samples.detach().float(), run.prompts)
            together = earlier.followed_by(finished) if earlier else finished
            record = guidance.finished(samples, together.latents)
        if sigmas[-1] > 0:
            if memory is not None and memory.appends:
                log.info("%s: noise is left, so these latents are not remembered.", node)
        elif trouble := session.keep(inner, samples, None if run is None else run.prompts):
            say(trace, node, logging.ERROR, "not remembered", trouble)
        if record is not None:
            trace.runs.append(record)
            show_end(trace, node, node_id)
        return samples

    def predict(executor, x, timestep, model_options={}, seed=None):  # noqa: B006 (ComfyUI's signature)
        run = model_options.get("transformer_options", {}).get(key)
        # Asked before the model is queued, which a GPU would wait for.
        sigma = float(timestep.flatten()[0])
        x0 = executor(x, timestep, model_options, seed)
        if run is None or run.broken:
            return x0
        try:
            return run.denoised(x0, x, sigma, executor.class_obj)
        except NotFinite as error:
            trouble = explained(error, x)
            if config.strength > 0:
                raise ValueError(f"{node}: {trouble}.") from error
            run.broken = True  # nothing is asked of it
            say(trace, node, logging.WARNING, "not finite", f"Strength is 0, but {trouble}.")
            return x0

    guided = model.clone()
    _add_outermost(guided, WrappersMP.SAMPLER_SAMPLE, key, telling_the_mend(start_run, node))
    _add_outermost(guided, WrappersMP.PREDICT_NOISE, key, predict)
    return guided


def _add_outermost(model, kind: str, key: str, wrapper) -> None:
    """Outermost, so that wrappers which skip model calls cache the unguided estimate."""
    wrappers = model.wrappers.setdefault(kind, {})
    others = dict(wrappers)
    wrappers.clear()
    wrappers[key] = [wrapper]
    wrappers.update(others)


def make_guidance(
    inner_model,
    references,
    config,
    sigmas,
    noise,
    memory: Memory | None,
    record: bool,
    carry: Callable,
    budget: float = math.inf,
) -> Guidance:
    """The guidance of one run, with everything on the device and in the space of `noise`."""
    sampling = inner_model.model_sampling
    config = config.for_batch(len(noise))
    frame = noise.ndim == references.latents.ndim + 1  # models of video take images as one frame
    dtype = torch.promote_types(noise.dtype, torch.float32)

    def prepare(latents):
        return inner_model.process_latent_in(latents.unsqueeze(2) if frame else latents)

    prompt_kernel = config.kernel_config.prompt_kernel != "none"
    return Guidance(
        config,
        Latents(references.latents, references.weights.to(noise.device, dtype), prepare),
        sigmas.tolist(),
        Window(
            float(sampling.percent_to_sigma(config.start_percent)),
            float(sampling.percent_to_sigma(config.end_percent)),
        ),
        NoiseModel(
            flow_matching=isinstance(sampling, comfy.model_sampling.CONST),
            sigma_data=float(getattr(sampling, "sigma_data", 1.0)),
        ),
        memory=memory,
        prompts=references.prompts if prompt_kernel else None,
        record=record,
        carry=carry,
        budget=budget,
    )


def carry_of(sampler) -> Callable:
    """How a change of x̂0 enters x with one of ComfyUI's samplers, which nothing but its name tells."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    if "cfg_pp" not in name:
        return euler_carry
    return euler_cfg_pp_carry if "euler" in name else cfg_pp_carry


def say(trace: Trace | None, node: str, level: int, short: str, text: str) -> None:
    """Tells something about the memory, in the log and among the remarks."""
    log.log(level, "%s: %s", node, text)
    if trace is not None and (short, text) not in trace.said:
        trace.said.append((short, text))


def show_end(trace: Trace, node: str, node_id: str | None) -> None:
    """Logs and shows how the last run of `trace` ended."""
    log.info("%s: %s.", node, summary(trace))
    for remark in remarks(trace):
        if remark != FEW_IMAGES and remark not in trace.said:  # which was said before
            log.warning("%s: %s", node, remark.text)
    show_text(ending(trace), node_id)


def check_captions(references: References, config: GuidanceConfig, node: str) -> None:
    prompt_kernel = config.kernel_config.prompt_kernel
    if prompt_kernel != "none" and references.prompts is None:
        raise ValueError(
            f"{node}: the kernel compares prompts (prompt_kernel {prompt_kernel}), but the references "
            "carry no captions. Connect captions and clip to EncodeReferenceLatents, or set "
            "prompt_kernel of MMDKernel to none."
        )


def check_prompts(references: References, entries: list[dict], node: str) -> None:
    have, want = references.prompts.shape[1], entry_feature(entries[0]).shape[1]
    if have != want:
        raise ValueError(
            f"{node}: the captions of the references have {have} features, the prompts {want}: they come "
            "from different text encoders. Connect the clip of the checkpoint that draws to "
            "EncodeReferenceLatents."
        )


def check_fit(references: References, noise: torch.Tensor, latent_format, node: str) -> None:
    """Raises ValueError unless the references can be compared with what is being drawn."""
    trouble = wrong_vae(references, latent_format)
    if trouble:
        raise ValueError(f"{node}: {trouble}")
    have, want = references.latents.shape[-2:], noise.shape[-2:]
    if have != want:
        raise ValueError(
            f"{node}: the references were encoded for another picture size: their latents are "
            f"{have[1]}×{have[0]}, those being drawn {want[1]}×{want[0]}. Connect the latent_image of "
            "the sampler to target of EncodeReferenceLatents."
        )


def is_coupled(model) -> bool:
    """Whether MMD guidance acts on the model."""
    return any(str(key).startswith(KEY) for key in model.wrappers.get(WrappersMP.PREDICT_NOISE, {}))
