"""Draws paths with a ComfyUI guider. No other module of TRI-TSMC runs guiders or models.

The base chain is a ComfyUI SAMPLER, which core's SamplerCustomAdvanced runs. So everything that the
guider contains (prompts, cfg, LoRA, ControlNet, MMD guidance with a fixed generated half) is part
of the base model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ....mmd_core.tsmc import (
    Denoise,
    ParticleSystem,
    Paths,
    Potential,
    Recording,
    propose,
    smc,
    transitions,
)
from ...base.counted import counted
from ...base.log import log
from ...guidance.run.hook import is_coupled
from ...host.differing import differing
from ...host.faults import out_of_memory
from ...host.groups import Group, group_indices
from ...host.micro_batch import micro_batched
from ...host.noise_model import noise_model
from ...host.particle_noise import ParticleNoise, Starts, uniforms
from .plan import ModelInfo
from .state import Batch, Learned, Pilot, PilotBatch, PilotProposed, Planned, Proposed, Running

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider

__all__ = ["draw_batch", "draw_smc", "evaluations_per_estimate", "with_model"]


OnEstimate = Callable[[Tensor], None]  # is called with each batch of denoised estimates
Draw = Callable[[Denoise, Tensor, "Tensor | None"], Tensor]  # (denoise, x, mask) → final samples
COUPLED = (
    "The model is also guided by MMD, so the images of a batch depend on each other: weights and "
    "log Z are only approximate. Use one of the two methods."
)
NO_NOISE = (
    "The noise is 0, so all images begin with the same latent: weights and log Z are those of "
    "images that begin with it. Connect RandomNoise if they shall begin with noise."
)
ALIKE = 0.5  # mean correlation of noise from which the user is told
NOT_INDEPENDENT = (
    "The noise of the images is alike (variations of one noise), but they are weighted as if they "
    "began independently of each other: weights and log Z are too sure. Connect RandomNoise."
)
CURE = "set micro_batch to 0, or leave this patch or conditioning out"


def with_model(state: Planned | Learned, guider: CFGGuider, node: str) -> Pilot | Learned:
    """The state with the facts about the model of the guider. Checks all inputs before sampling.

    Raises:
        ValueError: The schedule does not decrease to 0, the conditioning holds several prompts, or
            the model adds no noise.
    """
    for entries in getattr(guider, "original_conds", {}).values():
        for entry in entries:
            tokens = entry.get("cross_attn")
            if tokens is not None and len(tokens) > 1:
                raise ValueError(
                    f"{node}: the conditioning of guider holds {len(tokens)} prompts, but all "
                    "images of a run have the same prompt: connect a single prompt"
                )
    patcher = guider.model_patcher
    noise = noise_model(patcher.get_model_object("model_sampling"))
    if noise is None:
        raise ValueError(
            f"{node}: the model of guider maps an image to an image, so there is no noise that "
            "could steer: connect a model that draws from noise"
        )
    try:
        steps = transitions(state.plan.sigmas.tolist(), noise, state.config.eta)
    except ValueError as error:
        raise ValueError(f"{node}: {error}") from error
    notices = state.notices
    if is_coupled(patcher) and COUPLED not in notices:
        notices += (COUPLED,)
    model = ModelInfo(steps, patcher.get_model_object("latent_format"), patcher.load_device)
    if isinstance(state, Planned):
        return Pilot(plan=state.plan, notices=notices, model=model)
    return replace(state, notices=notices, model=model)


def evaluations_per_estimate(guider: CFGGuider) -> int:
    """Network evaluations for one denoised estimate: 1 if cfg is 1, else one per conditioning."""
    if math.isclose(getattr(guider, "cfg", 1.0), 1.0):
        return 1
    return max(1, len(guider.original_conds))


@dataclass(frozen=True, eq=False)
class _PathSampler:
    """A ComfyUI sampler function that calls `draw`.

    Arguments:
        draw: Maps `(denoise, x, mask)` to the final samples.
        on_estimate: Is called with each batch of denoised estimates.
    """

    draw: Draw
    on_estimate: OnEstimate

    def __call__(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[..., None] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        # `callback` is not called: it would count the steps of this micro-batch as the whole run.
        extra_args, ones = extra_args or {}, x.new_ones(len(x))

        def denoise(x: Tensor, step: int) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            x0 = model(x, sigmas[step] * ones, **extra_args)
            self.on_estimate(x0)
            return x0

        return self.draw(denoise, x, extra_args.get("denoise_mask"))


def _sample(
    state: Running,
    guider: CFGGuider,
    noise: Starts,
    count: int,
    draw: Draw,
    on_estimate: OnEstimate,
) -> Tensor:
    """Runs the base chain of the guider for a batch of `count` particles.

    Returns:
        Raw LATENT samples on the CPU, of as many particles as the guider draws.
    """
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    plan = state.plan
    samples = plan.latent["samples"]
    latent = {
        **plan.latent,
        "samples": samples.expand(count, *samples.shape[1:]).clone(),
        "batch_index": list(range(noise.first, noise.first + count)),
    }
    sampler = comfy.samplers.KSAMPLER(_PathSampler(draw, on_estimate))
    try:
        result = SamplerCustomAdvanced.execute(noise, guider, sampler, plan.sigmas, latent)
    except Exception as error:
        if out_of_memory(error):
            at_once = min(plan.at_once(count), count)
            advice = f"Set micro_batch to {at_once // 2}" if at_once > 1 else "Draw smaller images"
            log.error("TRI-TSMC: not enough memory for %s. %s.", counted(at_once, "image"), advice)
        raise
    return result[0]["samples"].float().cpu()


def _starts(state: Running, first: int) -> Starts:
    """The noise of a batch after `first` particles."""
    config = state.config
    return Starts(state.plan.noise, first, config.paths + config.particles)


def _told(state: Running, starts: Starts) -> Running:
    """The state with what the user should know about the noise."""
    noise = NO_NOISE if starts.zero else NOT_INDEPENDENT if starts.alike > ALIKE else None
    if noise is None or noise in state.notices:
        return state
    return replace(state, notices=(*state.notices, noise))


def _alike(prompts: dict[str, list[dict]], count: int) -> None:
    """Checks that `count` images are drawn from the same conditioning.

    Raises:
        ValueError: They are not.
    """
    for name, entries in prompts.items():
        if what := differing(entries, count):
            raise ValueError(
                f"TRITSMCSampler: the {name} conditioning of guider differs between images "
                f"({what}), but final smc continues an image in the place of another one: give all "
                "images the same, or choose another final"
            )


def draw_batch(
    state: Pilot | Learned,
    guider: CFGGuider,
    count: int,
    on_estimate: OnEstimate,
    alike: bool = False,
) -> PilotProposed | Proposed:
    """Draws `count` independent paths from the proposal, `micro_batch` at a time.

    Arguments:
        alike: Whether all images must have the same conditioning.

    Raises:
        ValueError: Images depend on each other, begin with the same noise, or differ in their
            conditioning although they must not.
    """
    pilot = isinstance(state, Pilot)
    first = 0 if pilot else state.count
    paths: list[Paths] = []
    samples: list[Tensor] = []
    masks: list[Tensor] = []

    def draw(denoise: Denoise, x: Tensor, mask: Tensor | None) -> Tensor:
        if len(x) != len(indices):  # a guider that does not use its own model options
            raise ValueError(
                f"TRI-TSMC: this guider draws all {count} images at once: set micro_batch to 0"
            )
        noise = ParticleNoise(state.plan.noise.seed, indices)
        twist, theta = (None, None) if pilot else (state.twist(mask), state.learning.theta)
        if state.reward is not None and state.reward.space == "latent":
            state.reward.check(x)
        if mask is not None:
            masks.append(mask[:1].cpu())
        drawn = propose(
            denoise, x, state.model.steps, lambda _: noise(x), twist, theta, record=pilot
        )
        paths.append(drawn)
        return drawn.z

    starts = _starts(state, first)
    for rows in group_indices(count, state.plan.micro_batch):
        indices = [first + i for i in rows]
        check = partial(_alike, count=count) if alike else None
        group = Group(rows, count, "TRI-TSMC", CURE, check=check)
        samples.append(_sample(state, group.of_guider(guider), starts, count, draw, on_estimate))
    state = _told(state, starts)
    cost = state.cost.plus(estimates=count * len(state.model.steps))
    if pilot:
        recording = Recording.joined([part.recording for part in paths])
        batch = PilotBatch(torch.cat(samples), recording, masks[0] if masks else None)
        return PilotProposed(
            plan=state.plan, notices=state.notices, model=state.model, reward=state.reward,
            cost=cost, batch=batch,
        )  # fmt: skip
    h, H = torch.cat([part.h for part in paths]), torch.cat([part.H for part in paths])
    return Proposed(
        plan=state.plan, notices=state.notices, model=state.model, reward=state.reward, cost=cost,
        learning=state.learning, steering=state.steering, scored=state.scored,
        batch=Batch(torch.cat(samples), h, H),
    )  # fmt: skip


def draw_smc(
    state: Learned, guider: CFGGuider, potential: Potential | None, on_estimate: OnEstimate
) -> tuple[Learned, Tensor, ParticleSystem]:
    """One batch by sequential Monte Carlo with the learned twist.

    All particles move together, because they are resampled; the network still works on
    `micro_batch` at a time.

    Returns:
        The state with the added cost, the samples as raw LATENT, and the particles, which are not
        scored yet.
    """
    plan, steps, count = state.plan, state.model.steps, state.config.particles
    systems: list[ParticleSystem] = []
    guider = copy.copy(guider)
    guider.model_patcher = micro_batched(guider.model_patcher, plan.micro_batch)
    guider.model_options = guider.model_patcher.model_options
    indices = range(state.count, state.count + count)

    def draw(denoise: Denoise, x: Tensor, mask: Tensor | None) -> Tensor:
        noise = ParticleNoise(plan.noise.seed, indices)
        random = uniforms(plan.noise.seed, len(steps))
        system = smc(
            denoise, x, steps, lambda _: noise(x), random.__getitem__, potential,
            state.twist(mask), state.learning.theta,
        )  # fmt: skip
        systems.append(system)
        return system.z

    starts = _starts(state, state.count)
    samples = _sample(state, guider, starts, count, draw, on_estimate)
    state, cost = _told(state, starts), state.cost.plus(estimates=count * len(steps))
    return replace(state, cost=cost), samples, systems[0]
