"""The ways to more variety, each with the strengths that are tried."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from mmd_demo.emoji.precision import FAST
from mmd_pack.mmd_core import GuidanceConfig
from mmd_tests.studies.quality.emoji import easel, families, sampling, store
from mmd_tests.studies.quality.emoji.diversity import cads, particle, sparke
from mmd_tests.studies.quality.emoji.diversity.cads import Annealing
from mmd_tests.studies.quality.emoji.diversity.particle import by_particles
from mmd_tests.studies.quality.emoji.diversity.scenes import Scene, noise_of
from mmd_tests.studies.quality.emoji.diversity.sparke import by_entropy
from mmd_tests.studies.quality.emoji.sampling import Rule, Run, by_mmd, sample
from mmd_tests.studies.quality.emoji.world import World
from torch import Tensor

CFG, LOWER_CFG = 4.0, 2.0
OF_EACH = 8  # pictures that the template draws to each variation
REFERENCE_SEED = 900  # far from those of images
ALWAYS = tuple(Path(part.__file__) for part in (families, sampling))
OWN = {
    "cads": (Path(cads.__file__),),
    "particle": (Path(particle.__file__),),
    "sparke": (Path(sparke.__file__),),
    "template": easel.OURS,
    "folder": easel.OURS,
}
"""The files that images depend on: always, and those of a family."""


@dataclass(frozen=True)
class Way:
    """How a batch is drawn.

    Attributes:
        family: One of `FAMILIES`.
        strength: What the family calls its strength; 0 where there is none to choose.
    """

    family: str
    strength: float = 0.0

    @property
    def label(self) -> str:
        """What a table calls it."""
        name = FAMILIES[self.family].label
        return f"{name} {self.strength:g}" if self.strength else name


@dataclass(frozen=True)
class Family:
    """One method.

    Attributes:
        label: Its name in tables.
        tried: The strengths that the best is chosen of; none where nothing is to be chosen.
        fits: In which situations it can be used.
    """

    label: str
    tried: tuple[float, ...] = ()
    fits: Callable[[Scene], bool] = lambda scene: True


def _has_variations(scene: Scene) -> bool:
    return bool(scene.variations)


def _has_folder(scene: Scene) -> bool:
    return scene.folder is not None


FAMILIES = {
    "none": Family("no guidance"),
    "cfg": Family("cfg 2 in place of 4"),
    "cads": Family("CADS, s", (0.05, 0.1, 0.25)),
    "particle": Family("particle guidance, a", (0.3, 1.0, 3.0)),
    "sparke": Family("SPARKE, strength", (0.3, 1.0)),
    "variations": Family("a random one of the four prompts for each image", (), _has_variations),
    "template": Family("**the template**, strength", (30.0, 100.0), _has_variations),
    "folder": Family("**a folder of varied pictures as references**, strength", (), _has_folder),
}
"""All, in the order of the tables."""

AS_SET = {"template": 30.0, "folder": 30.0}
"""The strength with which the template begins; measured whatever is chosen for it."""


@dataclass(frozen=True)
class Studio:
    """Draws batches, and keeps them in a folder.

    Attributes:
        folder: Where latents are kept.
    """

    world: World
    folder: Path
    steps: int

    def draw(self, way: Way, scene: Scene) -> Tensor:
        """The latents of a batch, with shape `(B, 4, 16, 16)`."""
        if way.family == "variations":
            return (
                self.variations(scene)
                .view(len(scene.variations), OF_EACH, 4, 16, 16)[
                    :, : len(scene.prompts) // len(scene.variations)
                ]
                .flatten(0, 1)
            )
        given = self._given(way, scene)
        key = (
            scene.prompts,
            scene.seed,
            way,
            None if given is None else store.tensor_digest(given),
        )
        return self._kept(key, lambda: self._drawn(way, scene, given), OWN.get(way.family, ()))

    def variations(self, scene: Scene) -> Tensor:
        """What the template draws to the four prompts: latents of the first, then of the second …"""
        prompts = tuple(text for text in scene.variations for _ in range(OF_EACH))
        half, run = len(prompts) // 2, Run(self.steps, CFG)
        noise, words = noise_of(REFERENCE_SEED, len(prompts)), self.world.words(prompts)

        def compute() -> Tensor:
            parts = (slice(0, half), slice(half, None))
            model = self.world.model
            return torch.cat([sample(run, model, words[part], noise[part]) for part in parts])

        return self._kept((prompts, REFERENCE_SEED), compute)

    def _kept(self, key: tuple, compute: Callable[[], Tensor], files: tuple = ()) -> Tensor:
        code = store.code_digest(*ALWAYS, *files)
        key = (self.world.drawing, self.steps, str(FAST), code, *key)
        return store.stored(self.folder, key, lambda: (compute(), {}))[0]

    def _given(self, way: Way, scene: Scene) -> Tensor | None:
        """The latents of the references."""
        if way.family == "template":
            return self.variations(scene)
        if way.family != "folder":
            return None
        pixels = scene.folder.pixels
        return self._kept((scene.folder.digest,), lambda: self.world.encode(pixels))

    def _drawn(self, way: Way, scene: Scene, given: Tensor | None) -> Tensor:
        run = Run(self.steps, LOWER_CFG if way.family == "cfg" else CFG)
        model, rule = self.world.model, self._rule(way, scene, run, given)
        if way.family == "cads":
            model = Annealing(model, way.strength, torch.Generator().manual_seed(scene.seed))
        words = self.world.words(scene.prompts)
        return sample(run, model, words, noise_of(scene.seed, len(words)), rule)

    def _rule(self, way: Way, scene: Scene, run: Run, given: Tensor | None) -> Rule | None:
        if way.family == "particle":
            return by_particles(run, way.strength)
        if way.family == "sparke":
            return by_entropy(run, way.strength, self.world.prompt_features(scene.prompts))
        if given is not None:
            config = GuidanceConfig(way.strength, mode="keep_prompt")
            return by_mmd(run, config, given, len(scene.prompts))
        return None
