"""Guided draws with a tiny model, as workflows make them: what the tests of guidance in ComfyUI have in common."""

import torch
from mmd_pack.mmd_core import References
from mmd_pack.nodes.guidance.apply_mmd_guidance import ApplyMMDGuidance
from mmd_pack.nodes.guidance.mmd_guided_ksampler import MMDGuidedKSampler
from mmd_tests.support.tiny_models import empty_latent, prompt, random

import nodes

SETTINGS = {"strength": 20.0, "start_percent": 0.0, "end_percent": 0.8, "mode": "flow"}


def make_references(n=6, shape=(4, 8, 8), **options):
    return References(random(n, *shape, seed=1) * 5 + 2, **options)


def core_draw(
    model, latent=None, sampler="euler", steps=4, positive=None, negative=None, cfg=2.0, **options
) -> torch.Tensor:
    """Core's own KSampler."""
    (out,) = nodes.common_ksampler(
        model, 7, steps, cfg, sampler, "normal", prompt(1) if positive is None else positive,
        negative or prompt(2), latent or empty_latent(), **options,
    )  # fmt: skip
    return out["samples"]


def apply(model, references, memory=None, **settings):
    """The patch: (model, trace)."""
    options = {**SETTINGS, "memory": memory, **settings}
    return ApplyMMDGuidance.execute(model, references, **options).result


def patched(model, references, **settings):
    return apply(model, references, **settings)[0]


def guided_draw(model, references, latent=None, sampler="euler", steps=4, **options):
    """Our sampler node: (samples, trace, report)."""
    options = {**SETTINGS, "denoise": 1.0, "positive": prompt(1), "negative": prompt(2), **options}
    latent, trace, report = MMDGuidedKSampler.execute(
        model, references, 7, steps, 2.0, sampler, "normal",
        latent_image=latent or empty_latent(), **options,
    ).result  # fmt: skip
    return latent["samples"], trace, report
