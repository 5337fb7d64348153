"""Draws paths with a ComfyUI guider. Only this module of TRI-TSMC runs guiders, samplers and models.

The chain is a ComfyUI SAMPLER, which core's SamplerCustomAdvanced runs. So everything that the guider contains (prompts,
cfg, LoRA, ControlNet, MMD guidance with a fixed generated half) is part of the base model.
"""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor

from ....mmd_core.tsmc import (
    Recording,
    Swarm,
    propose,
    smc,
    transitions,
)
from ...guidance.run.hook import is_coupled
from ...host.faults import out_of_memory
from ...host.micro_batch import micro_batched
from ...host.particle_noise import ParticleNoise, uniforms
from .state import Batch, TSMCState

__all__ = ["drawn", "evaluations", "known", "swarm"]

log = logging.getLogger("mmd_guidance")
Watch = Callable[[Tensor], None]  # is called with each batch of denoised estimates


def known(state: TSMCState, guider, node: str) -> TSMCState:
    """The state with the data of the guider: chain, latent format and device. Checks all inputs before sampling.

    Raises:
        ValueError: The schedule does not decrease to 0, or the conditioning holds several prompts.
    """
    for entries in getattr(guider, "original_conds", {}).values():
        for entry in entries:
            tokens = entry.get("cross_attn")
            if tokens is not None and len(tokens) > 1:
                raise ValueError(
                    f"{node}: the conditioning of guider holds {len(tokens)} prompts, one for each image. All images "
                    "are samples of one distribution here: connect a single prompt"
                )
    model = guider.model_patcher
    sampling = model.get_model_object("model_sampling")
    flow = isinstance(sampling, comfy.model_sampling.CONST)
    scale = float(getattr(sampling, "noise_scale", 1.0)) if flow else 1.0  # as core's sampler does
    try:
        steps = transitions(state.sigmas.tolist(), flow, state.config.eta, scale)
    except ValueError as error:
        raise ValueError(f"{node}: {error}") from error
    notices = state.notices
    coupled = (
        "The model is guided by MMD too, which lets the images of a batch see each other: weights and log Z are only "
        "approximate."
    )
    if is_coupled(model) and coupled not in notices:
        notices += (coupled,)
    return replace(
        state,
        steps=steps,
        latent_format=model.get_model_object("latent_format"),
        device=model.load_device,
        notices=notices,
    )


def evaluations(guider) -> int:
    """The number of network evaluations for one denoised estimate: 1 if cfg is 1, else one per conditioning."""
    if math.isclose(getattr(guider, "cfg", 1.0), 1.0):
        return 1
    return max(1, len(guider.original_conds))


@dataclass
class _Chain:
    """A ComfyUI sampler function that calls `run`.

    Arguments:
        run: Maps `(denoise, x, mask)` to the final samples.
        watch: Is called with each batch of denoised estimates.
    """

    run: Callable
    watch: Watch

    def __call__(self, model, x, sigmas, extra_args=None, callback=None, disable=None):
        # `callback` is not called: it would count the steps of this micro-batch as the whole run.
        extra_args, ones = extra_args or {}, x.new_ones(len(x))

        def denoise(x: Tensor, step: int) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            x0 = model(x, sigmas[step] * ones, **extra_args)
            self.watch(x0)
            return x0

        return self.run(denoise, x, extra_args.get("denoise_mask"))


def _sampled(state: TSMCState, guider, indices: range, run: Callable, watch: Watch) -> Tensor:
    """Runs the chain for the particles `indices`; returns raw LATENT samples on the CPU."""
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    latent = {**state.latent, "batch_index": list(indices)}
    samples = latent["samples"]
    latent["samples"] = samples.expand(len(indices), *samples.shape[1:]).clone()
    sampler = comfy.samplers.KSAMPLER(_Chain(run, watch))
    try:
        result = SamplerCustomAdvanced.execute(state.noise, guider, sampler, state.sigmas, latent)
    except Exception as error:
        if out_of_memory(error):
            at_once = min(state.micro_batch or len(indices), len(indices))
            advice = f"Set micro_batch to {at_once // 2}" if at_once > 1 else "Draw smaller images"
            log.error(
                "TRI-TSMC: the memory is not enough for %s images at once. %s.", at_once, advice
            )
        raise
    return result[0]["samples"].float().cpu()


def drawn(state: TSMCState, guider, count: int, watch: Watch) -> TSMCState:
    """The state with a new batch of `count` independent paths from the proposal, drawn `micro_batch` at a time."""
    first, pilot = state.drawn, state.learning is None
    paths, samples, masks = [], [], []

    def run(denoise, x, mask):
        noise = ParticleNoise(state.noise.seed, indices)
        twist = None if pilot else state.twist(mask)
        theta = None if pilot else state.learning.theta
        if state.reward is not None and state.reward.space == "latent":
            state.reward.check(x)
        if mask is not None:
            masks.append(mask[:1].cpu())
        found = propose(denoise, x, state.steps, lambda _: noise(x), twist, theta, record=pilot)
        paths.append(replace(found, z=None))
        return found.z

    size = state.micro_batch or count
    for start in range(0, count, size):
        indices = range(first + start, first + min(start + size, count))
        samples.append(_sampled(state, guider, indices, run, watch))
    recording = Recording.joined([part.recording for part in paths]) if pilot else None
    batch = Batch(
        torch.cat(samples),
        torch.cat([part.h for part in paths]),
        torch.cat([part.H for part in paths]),
        recording,
        masks[0] if masks else None,
    )
    return replace(state, batch=batch, estimates=state.estimates + count * len(state.steps))


def swarm(
    state: TSMCState, guider, potential: Callable | None, watch: Watch
) -> tuple[TSMCState, Tensor, Swarm]:
    """One pass of sequential Monte Carlo with the learned twist.

    Returns the state with the added cost, the samples as raw LATENT, and the particles, which are not scored yet. All
    particles move together, because they are resampled; the network still works on `micro_batch` at a time.
    """
    config, first, found = state.config, state.drawn, []
    guider = copy.copy(guider)
    guider.model_patcher = micro_batched(guider.model_patcher, state.micro_batch)
    guider.model_options = guider.model_patcher.model_options
    indices = range(first, first + config.particles)

    def run(denoise, x, mask):
        noise = ParticleNoise(state.noise.seed, indices)
        random = uniforms(state.noise.seed, len(state.steps))
        result = smc(
            denoise, x, state.steps, lambda _: noise(x), random.__getitem__, potential=potential,
            twist=state.twist(mask), theta=state.learning.theta,
        )  # fmt: skip
        found.append(replace(result, z=None))
        return result.z

    samples = _sampled(state, guider, indices, run, watch)
    made = state.estimates + config.particles * len(state.steps)
    return replace(state, estimates=made), samples, found[0]
