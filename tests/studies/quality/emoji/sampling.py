"""Guided Euler steps with cfg, as ComfyUI takes them."""

import contextlib
from dataclasses import dataclass

import torch
from mmd_demo.emoji.denoiser import EmojiModel
from mmd_demo.emoji.precision import fast_math
from mmd_pack.mmd_core import Guidance, GuidanceConfig, Latents, Schedule, Window
from mmd_tests.studies.quality.emoji.families import FAMILIES, Family
from torch import Tensor


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


def make_guidance(
    run: Run,
    config: GuidanceConfig,
    references: Tensor,
    batch: int,
    captions: Tensor | None = None,
) -> Guidance:
    """The guidance of one batch.

    Arguments:
        references: Latents of the set, with shape `(N, 4, H, W)`.
        captions: Prompt features of the set, with shape `(N, E)`, if the kernel compares prompts.
    """
    family = run.rules
    window = Window(family.level_at(config.start_percent), family.level_at(config.end_percent))
    schedule = Schedule(tuple(family.levels(run.steps).tolist()), window, family.noise)
    latents = Latents(references, torch.full((len(references),), 1 / len(references)))
    return Guidance(config.for_batch(batch), latents, schedule, captions=captions)


@torch.no_grad()
def estimate(run: Run, model: EmojiModel, x: Tensor, sigma: float, words: Tensor) -> Tensor:
    """x̂0 of noisy latents (B, 4, H, W) with words (B, L); at cfg 1 the model is called once."""
    scale = run.rules.signal_in(sigma)
    noisy, time = x * scale, sigma * scale
    times = torch.full((len(x),), time)
    with fast_math() if run.fast else contextlib.nullcontext():
        if run.cfg == 1:
            velocity = model(noisy, times, words).float()
        else:
            both = torch.cat([words, torch.zeros_like(words)])
            found = model(noisy.repeat(2, 1, 1, 1), times.repeat(2), both)
            told, free = found.float().chunk(2)
            velocity = free + run.cfg * (told - free)
    return noisy - time * velocity


def sample(
    run: Run,
    model: EmojiModel,
    words: Tensor,
    noise: Tensor,
    guidance: Guidance | None = None,
    prompts: Tensor | None = None,
) -> Tensor:
    """Latents (B, 4, H, W) of words (B, L), drawn from noise by Euler steps.

    Arguments:
        prompts: Prompt features of the images, with shape `(B, E)`, if guidance compares prompts.
    """
    levels = run.rules.levels(run.steps).tolist()
    x = run.rules.start(noise, levels[0])
    for sigma, after in zip(levels[:-1], levels[1:], strict=True):
        clean = estimate(run, model, x, sigma, words)
        if guidance is not None:
            clean = guidance(clean, x, sigma, prompts)
        x = clean + (x - clean) * (after / sigma)
    return x
