"""All figures of the images of one trial, by the judge, by their pixels and by the model."""

from pathlib import Path

import mmd_demo.judge
import numpy as np
import torch
from mmd_tests.demo.emoji import measures
from mmd_tests.demo.emoji.judge import JUDGED_STYLES
from mmd_tests.demo.emoji.pictures import to_float
from mmd_tests.studies.quality import metrics
from mmd_tests.studies.quality.emoji import targets
from mmd_tests.studies.quality.emoji.trial import Shown, Trial
from mmd_tests.studies.quality.emoji.world import World, in_parts
from torch import Tensor

SOURCES = tuple(Path(part.__file__) for part in (measures, metrics, mmd_demo.judge, targets)) + (
    Path(__file__),
)
"""The files that the figures depend on."""

REAL = {
    "real": "real pictures",
    "decoded": "real pictures, encoded and decoded",
    "copies": "pictures of the set instead",
}
"""Rows of what is not drawn."""

RIVALS = 99
NEIGHBOURS = 2  # of a real picture; among sixteen, five would cover nearly everything


class Yardstick:
    """What the images of one trial are compared with.

    Arguments:
        given: Latents of the set, with shape `(N, 4, 16, 16)`.
    """

    def __init__(self, world: World, trial: Trial, given: Tensor) -> None:
        self.world, self.trial, self.given = world, trial, given
        self.fresh = world.encode(trial.held_out.pixels)
        self.real = to_float(trial.held_out.pixels)
        self.features = self.judge(self.real)
        self.bands = measures.band_variances(self.real)
        self.sharpness = measures.sharpness(self.real)

    @torch.no_grad()
    def judge(self, pictures: Tensor) -> Tensor:
        """The judge's features of pictures, with shape `(B, F)`."""
        return in_parts(self.world.judge.features, pictures)

    @torch.no_grad()
    def alone(
        self, pictures: Tensor, latents: Tensor, features: Tensor, prompts: tuple, styles: tuple
    ) -> dict[str, float]:
        """The figures that need no other pictures."""
        world, found = self.world, {}
        if any(styles):
            wanted = torch.tensor([JUDGED_STYLES.index(style) for style in styles])
            right = world.judge.style(features).argmax(1) == wanted
            found["style"] = right.double().mean().item()
        scores = world.judge.name_scores(features, world.name_words)
        if set(prompts) <= set(world.names):
            own = torch.tensor([world.names.index(prompt) for prompt in prompts])
            generator = torch.Generator().manual_seed(0)
            count = min(RIVALS, len(world.names) - 1)
            rivals = measures.draw_rivals(own, len(world.names), count, generator)
            found |= measures.adherence(measures.name_ranks(scores, own, rivals))
        if any(prompts):
            generator = torch.Generator().manual_seed(0)
            gain = measures.prompt_gain(world.model, latents, world.words(prompts), generator)
            found["prompt gain"] = gain.mean().item()
        low, middle, high = np.divide(measures.band_variances(pictures), self.bands).tolist()
        found |= {"var low": low, "var middle": middle, "var high": high}
        found["sharpness"] = measures.sharpness(pictures) / self.sharpness
        return found | self.trial.extras(pictures, scores)

    def compared(self, latents: Tensor, features: Tensor) -> dict[str, float]:
        """The figures against real pictures and against the set."""
        coverage, _ = metrics.coverage_and_density(
            self.features.numpy(), features.numpy(), k=NEIGHBOURS
        )
        return {
            "FD": measures.frechet_distance(features, self.features),
            "MMD2": measures.mmd2(features, self.features),
            "MMD2 set": measures.mmd2(latents, self.given),
            "coverage": coverage,
            "nearest by fresh": measures.nearest_by_fresh(latents, self.given, self.fresh),
        }

    def drawn(self, latents: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The judge's features of drawn images, and all their figures."""
        pictures = self.world.decode(latents)
        features = self.judge(pictures)
        own = self.trial.prompts, self.trial.styles
        found = self.alone(pictures, latents, features, *own)
        return features, found | self.compared(latents, features)

    def decoded(self) -> tuple[Tensor, dict[str, float]]:
        """The same of the real pictures after encoding and decoding."""
        return self._of_real(self.world.decode(self.fresh), self.trial.held_out)

    def held_out(self) -> tuple[Tensor, dict[str, float]]:
        """The figures of the real pictures that need no others."""
        features, found = self._of_real(self.real, self.trial.held_out)
        for name in ("FD", "MMD2", "coverage", "nearest by fresh"):
            del found[name]  # they are what others are compared with
        return features, found

    def copies(self) -> tuple[Tensor, dict[str, float]]:
        """The figures of pictures of the set that are taken for images of the prompts."""
        trial = self.trial
        chosen = torch.linspace(0, len(trial.given) - 1, len(trial.prompts)).round().long()
        pictures, latents = to_float(trial.given.pixels[chosen]), self.given[chosen]
        features = self.judge(pictures)
        found = self.alone(pictures, latents, features, trial.prompts, trial.styles)
        return features, found | self.compared(latents, features)

    def _of_real(self, pictures: Tensor, shown: Shown) -> tuple[Tensor, dict[str, float]]:
        trial, count = self.trial, len(shown)
        prompts = (trial.prompts[0],) * count if trial.one_prompt else shown.names
        styles = shown.styles if any(trial.styles) else ("",) * count
        features = self.judge(pictures)
        found = self.alone(pictures, self.fresh, features, prompts, styles)
        return features, found | self.compared(self.fresh, features)
