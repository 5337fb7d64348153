"""How varied a batch is, whether it shows what was asked for, and how far it is from real pictures."""

from pathlib import Path

import mmd_demo.judge
import torch
from mmd_tests.demo.emoji import measures
from mmd_tests.demo.emoji.pictures import to_float
from mmd_tests.studies.quality import metrics
from mmd_tests.studies.quality.emoji import store
from mmd_tests.studies.quality.emoji.diversity.scenes import Scene
from mmd_tests.studies.quality.emoji.world import World, in_parts
from torch import Tensor

RIVALS = 99
SOURCES = tuple(Path(part.__file__) for part in (measures, metrics, mmd_demo.judge)) + (
    Path(__file__),
)
"""The files that the figures depend on."""


def mean_distance(features: Tensor) -> float:
    """The mean distance between two different rows of features (B, F)."""
    return torch.pdist(features.double()).mean().item()


def ranks(scores: Tensor, right: list[list[int]], generator: torch.Generator) -> Tensor:
    """The place (B,), from 1 on, of the best right name of each picture among wrong ones.

    Arguments:
        scores: How well each name fits each picture, with shape `(B, N)`.
        right: The numbers of the names that are right for each picture.
        generator: Draws the wrong names: 99, or all if there are fewer.
    """
    found = []
    for row, own in zip(scores, right, strict=True):
        wrong = torch.ones(len(row), dtype=torch.bool)
        wrong[own] = False
        others = row[wrong]
        others = others[torch.randperm(len(others), generator=generator)[:RIVALS]]
        found.append(1 + (others >= row[own].max()).sum())
    return torch.stack(found)


class Gauge:
    """Measures batches of one scene."""

    def __init__(self, world: World, scene: Scene) -> None:
        self.world, self.scene = world, scene
        self.real = to_float(scene.real.pixels)
        self.features = self.judged(self.real)
        self.bandwidth = metrics.median_feature_distance(self.features.numpy())

    @torch.no_grad()
    def judged(self, pictures: Tensor) -> Tensor:
        """The judge's features (B, F) of pictures."""
        return in_parts(self.world.judge.features, pictures)

    def figures(self, latents: Tensor, folder: Path) -> dict[str, float]:
        """All figures of the latents of a batch; they are kept in a folder."""
        key = (self.world.drawing, self.world.judging, store.code_digest(*SOURCES))
        key += (self.scene.right, self.scene.real.digest, store.tensor_digest(latents))

        def compute() -> tuple[Tensor, dict[str, float]]:
            pictures = self.world.decode(latents)
            return torch.zeros(1), self.of_pictures(pictures)

        return store.stored(folder, key, compute)[1]

    @torch.no_grad()
    def of_pictures(self, pictures: Tensor) -> dict[str, float]:
        """All figures of pictures (B, 3, 64, 64) of the prompts."""
        world, features = self.world, self.judged(pictures)
        numbers = {name: number for number, name in enumerate(world.names)}
        right = [[numbers[name] for name in names] for names in self.scene.right]
        scores = world.judge.name_scores(features, world.name_words)
        places = ranks(scores, right, torch.Generator().manual_seed(0))
        found = measures.adherence(places)
        return {
            "Vendi": metrics.vendi_score(features.numpy(), self.bandwidth),
            "distance": mean_distance(features) / mean_distance(self.features),
            "own name first": found["own name first"],
            "own name in 5": found["own name in 5"],
            "MMD2": measures.mmd2(features, self.features),
            "FD": measures.main_frechet_distance(features, self.features),
            "sharpness": measures.sharpness(pictures) / measures.sharpness(self.real),
        }

    def of_real(self) -> dict[str, float]:
        """The figures of as many real pictures of the prompts, the mean of several draws."""
        count, several = len(self.scene.prompts), []
        for seed in range(8):
            generator = torch.Generator().manual_seed(seed)
            some = torch.randperm(len(self.real), generator=generator)[:count]
            several.append(self._without_prompts(self.real[some]))
        return {name: sum(each[name] for each in several) / len(several) for name in several[0]}

    def _without_prompts(self, pictures: Tensor) -> dict[str, float]:
        features = self.judged(pictures)
        return {
            "Vendi": metrics.vendi_score(features.numpy(), self.bandwidth),
            "distance": mean_distance(features) / mean_distance(self.features),
            "sharpness": measures.sharpness(pictures) / measures.sharpness(self.real),
        }
