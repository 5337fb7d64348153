"""One training on the ring, by a recipe."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from mmd_pack.mmd_core import KernelConfig
from mmd_pack.mmd_core.ddm import (
    DDMConfig,
    LoRA,
    MMDLoss,
    Problem,
    Training,
    layers,
)
from mmd_tests.studies.finetuning import ring
from torch import Tensor, nn

FRESH = 500  # references that are drawn for an update, if they are fresh
AS_SPECIFIED = {
    "batch_size": 256, "micro_batch": 256, "iterations": 400, "learning_rate": 3e-3, "rank": 4, "grad_clip": 0.5,
    "keep": "last", "validate_every": 20, "patience": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How to train: as specified, but for what is given.

    Attributes:
        base: One of `ring.BASES`.
        kernel: One of the pack's.
        widths: Of a kernel that has some, in median distances of the references.
        chains: `(steps, sampler)` of each sampler that is trained through.
        references: How many there are; 0 draws fresh ones for each update.
        validation: How many more are held out.
        full: Whether all weights are trained, not a LoRA.
        options: Names and values of `DDMConfig`.
    """

    base: str = "brief"
    kernel: str = "rbf"
    widths: tuple[float, ...] = ring.WIDTHS
    chains: tuple[tuple[int, str], ...] = ((5, "euler"),)
    references: int = 0
    validation: int = 0
    full: bool = False
    options: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of it.

    Attributes:
        network: With what was trained in it.
        adapter: What was trained: `put` changes it in the network.
        last: The values after the last update, even where others are kept.
        training: The run.
        references: With shape `(m, 2)`; None if they were fresh.
        seconds: Of processor time.
    """

    network: nn.Module
    adapter: "LoRA | Weights"
    last: list[Tensor]
    training: Training
    references: Tensor | None
    seconds: float


class FreshReferences:
    """A loss whose references are drawn anew for each update."""

    def __init__(self, kernel: KernelConfig):
        self.like = MMDLoss(ring.points(2000, torch.Generator().manual_seed(0)), kernel)

    def __call__(self, x: Tensor, prompts, random: torch.Generator) -> tuple[float, Tensor]:
        return MMDLoss(ring.points(FRESH, random), self.like.config, like=self.like)(x)


class Weights:
    """What a LoRA is to a training, but of all weights of the network."""

    def __init__(self, network: nn.Module):
        self.parameters = list(network.parameters())

    def requires_grad(self, trained: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(trained)

    def values(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


@cache
def train(recipe: Recipe, seed: int) -> Trained:
    """Trains by the recipe; the seed is that of all that is drawn."""
    network = ring.base(recipe.base)
    config = DDMConfig(**{**AS_SPECIFIED, "seed": seed, **dict(recipe.options)})
    kernel = KernelConfig(recipe.kernel, multipliers=recipe.widths)
    random = torch.Generator().manual_seed(200_000 + seed)
    references, loss, held_out = None, FreshReferences(kernel), None
    if recipe.references:
        references = ring.points(recipe.references, random)
        loss = MMDLoss(references, kernel)
    if recipe.validation:
        held_out = MMDLoss(ring.points(recipe.validation, random), kernel, like=loss)
    if recipe.full:
        adapter = Weights(network)
    else:
        adapter = LoRA(network, layers(network, "all"), config.rank, config.rank, seed)
    adapter.requires_grad(True)
    problem = Problem(
        chains=tuple(ring.chain(*each) for each in recipe.chains), shape=(2,), device=torch.device("cpu"),
        scaled=lambda noise, sigma: noise * sigma, denoise=lambda prompts: ring.denoise(network),
        features=lambda x, noise, prompts: x, loss=loss, held_out=held_out, chances=torch.ones(1),
    )  # fmt: skip
    training = Training(config, problem, adapter)
    began = time.process_time()
    for step in training.run():
        if step.iteration == config.iterations:
            last = adapter.values()
    if training.best == config.iterations:
        last = training.values  # averaged, as those that are kept
    taken = time.process_time() - began
    adapter.requires_grad(False)
    return Trained(network, adapter, last, training, references, taken)
