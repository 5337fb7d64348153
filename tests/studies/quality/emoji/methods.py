"""What one can do with a model, a set and a prompt; each result is kept in a file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from mmd_demo.emoji.precision import FAST
from mmd_demo.emoji.words import STYLES
from mmd_pack.mmd_core import GuidanceConfig, KernelConfig
from mmd_tests.studies.quality.emoji import families, sampling, store
from mmd_tests.studies.quality.emoji.sampling import Run, make_guidance, sample
from mmd_tests.studies.quality.emoji.trial import Trial
from mmd_tests.studies.quality.emoji.world import World
from mmd_tests.studies.quality.methods import closest_batch
from mmd_tests.studies.quality.metrics import median_distance, sq_distance_matrix
from mmd_tests.support.packages import ROOT
from torch import Tensor

GUIDING = tuple(ROOT / "mmd_core" / name for name in ("guidance", "comparison", "kernels"))
DRAWING = (Path(sampling.__file__), Path(families.__file__))


@dataclass(frozen=True)
class Easel:
    """Everything that draws the images of one trial.

    Attributes:
        given: Latents of the set, with shape `(N, 4, 16, 16)`.
        folder: Where images are kept.
    """

    world: World
    trial: Trial
    given: Tensor
    folder: Path
    steps: int
    family: str

    def draw(
        self,
        config: GuidanceConfig | None = None,
        prompts: tuple[str, ...] = (),
        number: int = 0,
        aware: bool = False,
    ) -> Tensor:
        """Latents of all prompts from one noise.

        Arguments:
            config: The settings of guidance; None draws without.
            prompts: Others than those of the trial.
            number: Which noise of the seed.
            aware: Whether the kernel compares prompts.
        """
        world, trial = self.world, self.trial
        run = Run(self.steps, trial.cfg, self.family)
        prompts = prompts or trial.prompts
        noise_seed = 1000 * trial.seed + number
        plain = (world.drawing, prompts, run, noise_seed, str(FAST))
        guided = (config, aware, trial.given.digest, store.code_digest(*GUIDING))
        key = (store.code_digest(*DRAWING), plain, guided if config else None)

        def compute() -> tuple[Tensor, dict]:
            generator = torch.Generator().manual_seed(noise_seed)
            noise = torch.randn(len(prompts), 4, 16, 16, generator=generator)
            guidance, features = None, None
            if config:
                captions = world.prompt_features(trial.given.names) if aware else None
                features = world.prompt_features(prompts) if aware else None
                guidance = make_guidance(run, config, self.given, len(prompts), captions)
            return sample(run, world.model, world.words(prompts), noise, guidance, features), {}

        return store.stored(self.folder, key, compute)[0]

    def kernel(self, **options: object) -> KernelConfig | None:
        """The kernel of the case."""
        if self.trial.aware:
            options = {"prompt_kernel": "cosine", **options}
        return KernelConfig(**options) if options else None


def _none(easel: Easel) -> Tensor:
    return easel.draw()


def _flow(**settings: float) -> Callable[[Easel], Tensor]:
    def draw(easel: Easel) -> Tensor:
        config = GuidanceConfig(kernel=easel.kernel(), **settings)
        return easel.draw(config, aware=easel.trial.aware)

    return draw


def _blind(easel: Easel) -> Tensor:
    return easel.draw(GuidanceConfig())


def _official(strength: float, **kernel: str) -> Callable[[Easel], Tensor]:
    """α of the authors' code, at all noise levels."""

    def draw(easel: Easel) -> Tensor:
        settings = {"mode": "official", "strength": strength, "end_percent": 1.0}
        config = GuidanceConfig(kernel=easel.kernel(**kernel), **settings)
        return easel.draw(config, aware=easel.trial.aware)

    return draw


def _paper(rate: float) -> Callable[[Easel], Tensor]:
    """λ = rate · B · h²: the share of the way to the set that a step may go, about."""

    def draw(easel: Easel) -> Tensor:
        h = median_distance(sq_distance_matrix(easel.given))
        strength = rate * len(easel.trial.prompts) * h**2
        settings = {"mode": "paper", "strength": strength, "end_percent": 1.0}
        return easel.draw(
            GuidanceConfig(kernel=easel.kernel(), **settings), aware=easel.trial.aware
        )

    return draw


def _best_of_4(easel: Easel) -> Tensor:
    """Of four unguided images of each prompt those that together are closest to the set.

    Of a prompt that all images share, any of the four batches' images may be chosen.
    """
    trial, chosen = easel.trial, []
    batches = torch.stack([easel.draw(number=number) for number in range(4)])
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
    return torch.cat(chosen)


def _style_word(easel: Easel) -> Tensor:
    """The name of the style before each prompt."""
    trial = easel.trial
    pairs = zip(trial.styles, trial.prompts, strict=True)
    return easel.draw(prompts=tuple(f"{style} {prompt}".strip() for style, prompt in pairs))


@dataclass(frozen=True)
class Method:
    """How to draw, and whether that makes sense in a case."""

    draw: Callable[[Easel], Tensor]
    label: str
    fits: Callable[[Trial], bool] = lambda trial: True


METHODS = {
    "none": Method(_none, "no guidance"),
    "default": Method(_flow(), f"default, strength {GuidanceConfig().strength:g}"),
    "1": Method(_flow(strength=1.0), "strength 1"),
    "3": Method(_flow(strength=3.0), "strength 3"),
    "10": Method(_flow(strength=10.0), "strength 10"),
    "30": Method(_flow(strength=30.0), "strength 30"),
    "blind": Method(_blind, "default, prompts not compared", lambda trial: trial.aware),
    "paper": Method(_paper(0.1), "paper, rate .1"),
    "official": Method(_official(0.05, kernel="rbf"), "official, .05"),
    "best-of-4": Method(_best_of_4, "best of 4 batches"),
    "style-word": Method(
        _style_word, "style word in the prompt", lambda trial: set(trial.styles) <= set(STYLES)
    ),
}
"""The rows of the tables."""

SWEEP = {
    **{f"paper-{r:g}": Method(_paper(r), f"paper, rate {r:g}") for r in (0.01, 0.03, 0.3, 1.0)},
    **{
        f"official-{kernel}-{a:g}": Method(_official(a, kernel=kernel), f"official, {kernel} {a:g}")
        for kernel in ("polynomial", "rbf")
        for a in (0.002, 0.01, 0.03, 0.1)
    },
}
"""Further strengths of the published modes."""
