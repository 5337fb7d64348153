"""Guided Euler steps with cfg, as ComfyUI takes them."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from mmd_demo.emoji.denoiser import EmojiModel
from mmd_demo.emoji.precision import fast_math
from mmd_pack.mmd_core import (
    Base,
    ByPrompt,
    Guidance,
    GuidanceConfig,
    Latents,
    Schedule,
    Window,
)
from mmd_tests.studies.quality.emoji.families import FAMILIES, Family
from torch import Tensor


class Estimates(NamedTuple):
    """x̂0 with the prompt by cfg, and without the prompt; None at cfg 1."""

    clean: Tensor
    without: Tensor | None


Estimate = Callable[[Tensor], Estimates]
"""Noisy latents (B, 4, H, W) to estimates, differentiable."""

Rule = Callable[[Estimate, Tensor, float], Tensor]
"""Guidance: how to estimate, noisy latents and their σ to the x̂0 with which sampling goes on."""


@dataclass(frozen=True)
class Run:
    """How a batch is drawn.

    Attributes:
        family: One of `FAMILIES`.
        fast: Whether the model may compute in half precision.
    """

    steps: int = 25
    cfg: float = 4.0
    family: str = "flow"
    fast: bool = True

    @property
    def rules(self) -> Family:
        """The family of that name."""
        return FAMILIES[self.family]


def precision(fast: bool) -> contextlib.AbstractContextManager:
    """Half precision for networks, if `fast` and the processor has units for it."""
    return fast_math() if fast else contextlib.nullcontext()


def by_mmd(
    run: Run,
    config: GuidanceConfig,
    references: Tensor,
    batch: int,
    prompts: Tensor | None = None,
    captions: Tensor | None = None,
    base: Base | None = None,
) -> Rule:
    """Our guidance of one batch.

    Arguments:
        references: Latents of the set, with shape `(N, 4, H, W)`.
        prompts, captions: Prompt features of the images and of the set, with shapes `(B, E)` and
            `(N, E)`, if the kernel compares prompts.
        base: What the model draws for the names of the set, to follow the contrast.
    """
    family = run.rules
    window = Window(family.level_at(config.start_percent), family.level_at(config.end_percent))
    schedule = Schedule(tuple(family.levels(run.steps).tolist()), window, family.noise)
    latents = Latents(references, torch.full((len(references),), 1 / len(references)))
    config = config.for_batch(batch, contrast=base is not None)
    guidance = Guidance(config, latents, schedule, captions=captions, base=base)

    def rule(estimate: Estimate, x: Tensor, sigma: float) -> Tensor:
        clean, without = estimate(x)
        by_prompt = None if without is None else ByPrompt(clean - without)
        return guidance(clean, x, sigma, prompts, by_prompt)

    return rule


def estimate(run: Run, model: EmojiModel, words: Tensor, sigma: float, x: Tensor) -> Estimates:
    """Estimates of noisy latents (B, 4, H, W) with words (B, L); at cfg 1 the model is called once."""
    scale = run.rules.signal_in(sigma)
    noisy, time = x * scale, sigma * scale
    times = torch.full((len(x),), time, dtype=x.dtype)
    with precision(run.fast):
        if run.cfg == 1:
            return Estimates(noisy - time * model(noisy, times, words).to(x.dtype), None)
        both = torch.cat([words, torch.zeros_like(words)])
        found = model(noisy.repeat(2, 1, 1, 1), times.repeat(2), both)
    told, free = found.to(x.dtype).chunk(2)
    return Estimates(noisy - time * (free + run.cfg * (told - free)), noisy - time * free)


@torch.no_grad()
def sample(
    run: Run, model: EmojiModel, words: Tensor, noise: Tensor, rule: Rule | None = None
) -> Tensor:
    """Latents (B, 4, H, W) of words (B, L), drawn from noise by Euler steps."""
    levels = run.rules.levels(run.steps).tolist()
    x = run.rules.start(noise, levels[0])
    for sigma, after in zip(levels[:-1], levels[1:], strict=True):
        clean_of = partial(estimate, run, model, words, sigma)
        clean = clean_of(x).clean if rule is None else rule(clean_of, x, sigma)
        x = clean + (x - clean) * (after / sigma)
    return x
