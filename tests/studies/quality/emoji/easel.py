"""Draws the images of one trial; each result is kept in a file, with the time that it took."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from mmd_demo.emoji.precision import FAST
from mmd_pack.mmd_core import Base, GuidanceConfig, KernelConfig
from mmd_pack.mmd_core.kernels.prompts import prompt_weights
from mmd_tests.demo.emoji.pictures import to_float
from mmd_tests.studies.quality import universal
from mmd_tests.studies.quality.emoji import families, gradient, sampling, store
from mmd_tests.studies.quality.emoji.gradient import GradientConfig, by_gradient
from mmd_tests.studies.quality.emoji.sampling import Rule, Run, by_mmd, sample
from mmd_tests.studies.quality.emoji.trial import Trial
from mmd_tests.studies.quality.emoji.world import World
from mmd_tests.support.packages import ROOT
from torch import Tensor

DRAWING = tuple(Path(part.__file__) for part in (sampling, families))
OURS = tuple(ROOT / "mmd_core" / name for name in ("guidance", "comparison", "kernels"))
BY_GRADIENT = tuple(Path(part.__file__) for part in (gradient, universal))
"""The files that images depend on."""

BASE_NOISE = 900  # the number of the noise of base images
Config = GuidanceConfig | GradientConfig | None
"""How to guide; None draws without guidance."""


class Drawn(NamedTuple):
    """Latents (B, 4, 16, 16), and the time they took by that of the same without guidance."""

    latents: Tensor
    time: float


@dataclass(frozen=True)
class Easel:
    """Everything that draws the images of one trial.

    Attributes:
        given: Latents of the set, with shape `(N, 4, 16, 16)`.
        folder: Where images are kept.
        together: How many images are drawn at a time; 0 stands for all.
        seconds: What images without guidance took in this process, as far as that is known.
    """

    world: World
    trial: Trial
    given: Tensor
    folder: Path
    steps: int
    family: str
    together: int = 0
    seconds: dict[tuple, float] = field(default_factory=dict, compare=False)

    @property
    def run(self) -> Run:
        """How a batch is drawn."""
        return Run(self.steps, self.trial.cfg, self.family)

    def draw(
        self,
        config: Config = None,
        prompts: tuple[str, ...] = (),
        number: int = 0,
        contrast: bool = False,
    ) -> Drawn:
        """The images of all prompts.

        Arguments:
            prompts: Others than those of the trial.
            number: Which noise of the seed.
            contrast: Whether guidance compares with what the model draws for the names of the set.
                The time it takes to draw that once for the set is not counted.
        """
        prompts = prompts or self.trial.prompts
        plain = (self.world.drawing, prompts, self.run, self._seed(number), str(FAST))
        key = (store.code_digest(*DRAWING), plain, None)
        if config:
            files = OURS if isinstance(config, GuidanceConfig) else BY_GRADIENT
            size = self.together if 0 < self.together < len(prompts) else 0
            guided = (config, self.trial.given.digest, size, store.code_digest(*files))
            key = (*key[:-1], guided)
        base = self._base() if contrast else None
        if base:
            key = (*key, store.tensor_digest(base.latents))

        def compute() -> tuple[Tensor, dict[str, float]]:
            latents, seconds = self._timed(config, prompts, number, base)
            return latents, {"time": seconds / self._unguided_seconds()}

        latents, facts = store.stored(self.folder, key, compute)
        return Drawn(latents, facts["time"])

    def kernel(self, **options: object) -> KernelConfig | None:
        """The kernel of the case."""
        if self.trial.aware:
            options = {"prompt_kernel": "cosine", **options}
        return KernelConfig(**options) if options else None

    def _seed(self, number: int) -> int:
        return 1000 * self.trial.seed + number

    def _unguided_seconds(self) -> float:
        """Of the images of the trial, drawn once more if another process drew them."""
        key = (self.trial.prompts, self.run, self.together)
        if key not in self.seconds:
            self._timed(None, self.trial.prompts, 0)
        return self.seconds[key]

    def _base(self) -> Base:
        """What the model draws for the names of the set, from a noise of its own."""
        names = self.trial.given.names
        latents = self.draw(prompts=names, number=BASE_NOISE).latents
        weights = torch.full((len(names),), 1 / len(names))
        return Base(latents, weights, self.world.prompt_features(names), torch.arange(len(names)))

    def _timed(
        self, config: Config, prompts: tuple[str, ...], number: int, base: Base | None = None
    ) -> tuple[Tensor, float]:
        """Latents, and the processor's seconds they took; other processes hardly change these."""
        generator = torch.Generator().manual_seed(self._seed(number))
        noise = torch.randn(len(prompts), 4, 16, 16, generator=generator)
        words = self.world.words(prompts)
        size = self.together or len(prompts)
        started, found = time.process_time(), []
        for first in range(0, len(prompts), size):
            part = slice(first, first + size)
            rule = self._rule(config, prompts[part], base)
            found.append(sample(self.run, self.world.model, words[part], noise[part], rule))
        seconds = time.process_time() - started
        if config is None:
            self.seconds.setdefault((prompts, self.run, self.together), seconds)
        return torch.cat(found), seconds

    def _rule(self, config: Config, prompts: tuple[str, ...], base: Base | None) -> Rule | None:
        """The guidance of a batch with these prompts."""
        world, given = self.world, self.trial.given
        texts = (prompts, given.names)
        if isinstance(config, GuidanceConfig):
            features = (None, None)
            if config.kernel_config.prompt_kernel != "none":
                features = tuple(map(world.prompt_features, texts))
            return by_mmd(self.run, config, self.given, len(prompts), *features, base)
        if isinstance(config, GradientConfig):
            weights = (None, None)
            if self.trial.aware:
                own, captions = map(world.prompt_features, texts)
                weights = tuple(prompt_weights("cosine", own, other) for other in (own, captions))
            pictures, deviation = to_float(given.pixels), self.given.std().item()
            return by_gradient(self.run, config, world.vae, pictures, deviation, weights)
        return None
