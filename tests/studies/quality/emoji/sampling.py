"""Guided Euler steps with cfg, as ComfyUI takes them in the world's flow-matching family."""

import contextlib

import torch
from denoiser import EmojiModel
from flow import lean
from mmd_pack.mmd_core import Guidance, GuidanceConfig, Latents, NoiseModel, Schedule, Window
from precision import fast_math
from torch import Tensor


def noise_levels(steps: int) -> Tensor:
    """The schedule, from 1 (noise) to 0 (picture), with shape `(steps + 1,)`."""
    return lean(torch.linspace(1, 0, steps + 1))


def percent_to_sigma(percent: float) -> float:
    """The noise level at a share of the schedule."""
    return float(lean(torch.tensor(1 - percent)))


def make_guidance(
    config: GuidanceConfig,
    references: Tensor,
    sigmas: Tensor,
    batch: int,
    captions: Tensor | None = None,
) -> Guidance:
    """The guidance of one batch.

    Arguments:
        references: Latents of the set, with shape `(N, 4, H, W)`.
        captions: Prompt features of the set, with shape `(N, E)`, if the kernel compares prompts.
    """
    window = Window(percent_to_sigma(config.start_percent), percent_to_sigma(config.end_percent))
    schedule = Schedule(tuple(sigmas.tolist()), window, NoiseModel(flow_matching=True))
    weights = torch.full((len(references),), 1 / len(references))
    latents = Latents(references, weights)
    return Guidance(config.for_batch(batch), latents, schedule, captions=captions)


@torch.no_grad()
def estimate(
    model: EmojiModel, x: Tensor, sigma: float, words: Tensor, cfg: float, fast: bool
) -> Tensor:
    """x̂0 of noisy latents (B, 4, H, W) with words (B, L); at cfg 1 the model is called once."""
    context = fast_math() if fast else contextlib.nullcontext()
    times = torch.full((len(x),), sigma)
    with context:
        if cfg == 1:
            velocity = model(x, times, words).float()
        else:
            both = torch.cat([words, torch.zeros_like(words)])
            told, free = model(x.repeat(2, 1, 1, 1), times.repeat(2), both).float().chunk(2)
            velocity = free + cfg * (told - free)
    return x - sigma * velocity


def sample(
    model: EmojiModel,
    words: Tensor,
    noise: Tensor,
    sigmas: Tensor,
    cfg: float,
    guidance: Guidance | None = None,
    prompts: Tensor | None = None,
    fast: bool = True,
) -> Tensor:
    """Latents (B, 4, H, W) of words (B, L), drawn from noise by Euler steps.

    Arguments:
        prompts: Prompt features of the images, with shape `(B, E)`, if guidance compares prompts.
        fast: Whether the model may compute in half precision.
    """
    x, levels = noise, sigmas.tolist()
    for sigma, after in zip(levels[:-1], levels[1:], strict=True):
        clean = estimate(model, x, sigma, words, cfg, fast)
        if guidance is not None:
            clean = guidance(clean, x, sigma, prompts)
        x = clean + (x - clean) * (after / sigma)
    return x
