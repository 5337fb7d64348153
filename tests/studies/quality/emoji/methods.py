"""What one can do with a model, a set and a prompt."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmd_demo.emoji.words import STYLES
from mmd_pack.mmd_core import GuidanceConfig
from mmd_tests.studies.quality.emoji.easel import Drawn, Easel
from mmd_tests.studies.quality.emoji.gradient import LOSSES, GradientConfig
from mmd_tests.studies.quality.emoji.trial import Trial
from mmd_tests.studies.quality.methods import closest_batch
from mmd_tests.studies.quality.metrics import median_distance, sq_distance_matrix


@dataclass(frozen=True)
class Method:
    """How to draw, and whether that makes sense in a case."""

    draw: Callable[[Easel], Drawn]
    label: str
    fits: Callable[[Trial], bool] = lambda trial: True


def _none(easel: Easel) -> Drawn:
    return easel.draw()


def _flow(kernel: dict | None = None, **settings: float) -> Callable[[Easel], Drawn]:
    return lambda easel: easel.draw(
        GuidanceConfig(kernel=easel.kernel(**(kernel or {})), **settings)
    )


def _contrast(strength: float) -> Method:
    def draw(easel: Easel) -> Drawn:
        config = GuidanceConfig(strength, mode="keep_prompt", kernel=easel.kernel())
        return easel.draw(config, contrast=True)

    return Method(
        draw, f"keep_prompt with base images, {strength:g}", lambda trial: any(trial.prompts)
    )


def _keep_prompt(strength: float) -> Method:
    return Method(
        _flow(strength=strength, mode="keep_prompt"),
        f"keep_prompt, strength {strength:g}",
        lambda trial: trial.cfg > 1,  # else it is flow
    )


def _blind(easel: Easel) -> Drawn:
    return easel.draw(GuidanceConfig(NODE_STRENGTH, mode="keep_prompt"))


def _official(strength: float, kernel: str) -> Method:
    """α of the authors' code, at all noise levels."""

    def draw(easel: Easel) -> Drawn:
        settings = {"mode": "official", "strength": strength, "end_percent": 1.0}
        return easel.draw(GuidanceConfig(kernel=easel.kernel(kernel=kernel), **settings))

    return Method(draw, f"official, {kernel} {strength:g}")


def _paper(rate: float) -> Method:
    """λ = rate · B · h²: the share of the way to the set that a step may go, about."""

    def draw(easel: Easel) -> Drawn:
        h = median_distance(sq_distance_matrix(easel.given))
        strength = rate * len(easel.trial.prompts) * h**2
        settings = {"mode": "paper", "strength": strength, "end_percent": 1.0}
        return easel.draw(GuidanceConfig(kernel=easel.kernel(), **settings))

    return Method(draw, f"paper, rate {rate:g}")


def _gradient(loss: str, strength: float) -> Method:
    return Method(
        lambda easel: easel.draw(GradientConfig(loss, strength)), f"{loss} guidance, {strength:g}"
    )


def _best_of_4(easel: Easel) -> Drawn:
    """Of four unguided images of each prompt those that together are closest to the set.

    Of a prompt that all images share, any of the four batches' images may be chosen.
    """
    trial, chosen = easel.trial, []
    draws = [easel.draw(number=number) for number in range(4)]
    batches = torch.stack([each.latents for each in draws])
    parts = torch.tensor(trial.parts or (0,) * len(trial.prompts))
    given_parts = torch.tensor(trial.given_parts or (0,) * len(trial.given))
    for part in parts.unique():
        pool = batches[:, parts == part]
        count = pool.shape[1]
        prompts = None if trial.one_prompt else torch.arange(count).repeat(4)
        pool, own = pool.flatten(0, 1), easel.given[given_parts == part]
        best = closest_batch(pool, own, count, prompts)
        if prompts is not None:
            best = sorted(best, key=lambda row: row % count)  # in the order of the prompts
        chosen.append(pool[best])
    return Drawn(torch.cat(chosen), sum(each.time for each in draws))


def _style_word(easel: Easel) -> Drawn:
    """The name of the style before each prompt."""
    trial = easel.trial
    pairs = zip(trial.styles, trial.prompts, strict=True)
    return easel.draw(prompts=tuple(f"{style} {prompt}".strip() for style, prompt in pairs))


NODE_STRENGTH = 30.0  # with which a new node begins
OURS = {
    **{f"{s:g}": Method(_flow(strength=s), f"flow, strength {s:g}") for s in (3.0, 10.0, 100.0)},
    **{f"keep-{s:g}": _keep_prompt(s) for s in (10.0, NODE_STRENGTH, 100.0)},
    **{f"base-{s:g}": _contrast(s) for s in (10.0, NODE_STRENGTH)},
}
"""Our guidance, of which the tables have all."""

RHOS = (0.1, 0.3, 1.0, 3.0)
TUNED = {
    "paper": {f"paper-{rate:g}": _paper(rate) for rate in (0.01, 0.03, 0.1, 0.3, 1.0)},
    "official": {
        f"official-{kernel}-{alpha:g}": _official(alpha, kernel)
        for kernel, alphas in (("rbf", (0.01, 0.03, 0.05, 0.1)), ("polynomial", (0.01, 0.03)))
        for alpha in alphas
    },
    **{loss: {f"{loss}-{rho:g}": _gradient(loss, rho) for rho in RHOS} for loss in LOSSES},
}
"""Other guidance and the strengths that it is tried with, of which the tables have one (`tuning.py`)."""

SPACES = {
    f"{space}-{s:g}": Method(
        _flow({"feature_space": space, **options}, strength=s), f"flow, {space}, strength {s:g}"
    )
    for space, options in (("palette", {}), ("channel_stats", {}), ("patches", {"patch_size": 5}))
    for s in (3.0, 10.0, 30.0, 100.0)
}
"""What is compared; drawn only where it is asked for by name."""

METHODS = {
    "none": Method(_none, "no guidance"),
    **OURS,
    "blind": Method(
        _blind, "keep_prompt, strength 30, prompts not compared", lambda trial: trial.aware
    ),
    **{name: method for family in TUNED.values() for name, method in family.items()},
    "best-of-4": Method(_best_of_4, "best of 4 batches"),
    "style-word": Method(
        _style_word, "style word in the prompt", lambda trial: set(trial.styles) <= set(STYLES)
    ),
    **SPACES,
}
"""All, in the order of the tables."""
