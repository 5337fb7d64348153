"""What every world of the benchmark offers, and the list of them."""

import zlib
from abc import ABC, abstractmethod
from functools import cache

import numpy as np
import torch
from torch import Tensor


def generator(*keys) -> torch.Generator:
    """A generator seeded by what it is for: the same on every machine."""
    return torch.Generator().manual_seed(zlib.crc32(repr(keys).encode()))


class Case(ABC):
    """One target of one world: a model, references, and the truth.

    *Samples* are what is judged: tensors `(n, C, h, w)` in a space of the world's own, in which
    Euclidean distances are those between latents.

    Attributes:
        world, target: Names.
        batch, steps: How many samples are drawn together, in how many steps.
        shape: Of one latent, (C, h, w).
        model: The MODEL.
        drawn_as: The target whose unguided images are the same as those of this one.
        prompt_kernel: How guidance compares prompts.
        captions: Of the parts of a batch, one for each, if there are prompts.
        fidelity_name: What `fidelity` measures.
    """

    world: str
    target: str
    drawn_as: str
    batch: int
    steps: int
    shape: tuple[int, int, int]
    prompt_kernel = "none"
    captions: tuple[str, ...] = ()
    fidelity_name = "confidence"

    def __repr__(self) -> str:
        return f"{self.world} {self.target}"

    @property
    @abstractmethod
    def model(self):
        """The MODEL, which all cases of one world share."""

    @abstractmethod
    def prompts(self, batch: int):
        """Positive and negative CONDITIONING for `batch` images."""

    def parts(self, batch: int) -> list[int]:
        """Which caption each image of a batch follows: equal parts, in order."""
        return [i * len(self.captions) // batch for i in range(batch)] if self.captions else []

    @abstractmethod
    def draw_references(self, seed: int, n: int | None = None):
        """`References` of the pack, of latents as a VAE makes them; n where there is a choice."""

    @abstractmethod
    def held_out(self, seed: int) -> Tensor:
        """Target samples that are independent of the references of that seed."""

    @abstractmethod
    def fresh(self, n: int, seed: int) -> Tensor:
        """Up to n target samples that are independent of references and held-out ones."""

    @abstractmethod
    def samples(self, latents: Tensor) -> Tensor:
        """Samples of latents as a sampler returns them."""

    @abstractmethod
    def latents(self, samples: Tensor) -> Tensor:
        """Latents of samples."""

    @abstractmethod
    def proportions(self, samples: Tensor) -> dict[str, float]:
        """How far the shares of modes are from the truth: `TV`, and others of the world's own."""

    @abstractmethod
    def features(self, samples: Tensor) -> np.ndarray:
        """Features `(n, F)` for Fréchet distance, coverage, density and Vendi score."""

    @abstractmethod
    def fidelity(self, samples: Tensor) -> float:
        """How good single samples are, in [0, 1]."""

    @abstractmethod
    def variances(self, samples: Tensor, held_out: Tensor) -> dict[str, float]:
        """Variance inside modes relative to the truth, by frequency band."""

    def extras(self, samples: Tensor, truth) -> dict[str, float]:
        """Figures of this world only; `truth` is an `evaluate.Truth`."""
        return {}


def registry() -> dict[str, dict]:
    """World name → target name → how to make its `Case`."""
    from mmd_tests.studies.quality.digits_worlds import DIGITS, PROMPT_DIGITS
    from mmd_tests.studies.quality.mixture_worlds import MIXTURES
    from mmd_tests.studies.quality.shapes_worlds import PROMPT_SHAPES, SHAPES

    without = {**MIXTURES, "digits": DIGITS, "shapes": SHAPES}
    return {**without, "prompt-digits": PROMPT_DIGITS, "prompt-shapes": PROMPT_SHAPES}


def tuned_by(world: str) -> tuple[str, str]:
    """Which figures choose the best setting of a method, lower is better."""
    return ("style gap", "MMD2") if world.startswith("prompt-") else ("TV", "MMD2")


def studied() -> dict[str, dict]:
    """Worlds that only studies draw in, as in `registry`."""
    from mmd_tests.studies.quality.shapes_worlds import CORNER_SHAPES

    return {"corner": CORNER_SHAPES}


@cache
def get_case(world: str, target: str) -> Case:
    """The case, made once in a process."""
    return {**registry(), **studied()}[world][target]()
