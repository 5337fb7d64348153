"""One training on the ring, and what became of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from mmd_pack.mmd_core import KernelConfig
from mmd_pack.mmd_core.ddm import DDMConfig, LinearChain, LoRA, MMDLoss, Problem, Training, layers
from torch import Tensor, nn

from . import ring

STEPS = 5
FRESH = 500  # references that are drawn for an update, if they are fresh
AS_SPECIFIED = DDMConfig(
    batch_size=256, micro_batch=256, iterations=400, learning_rate=3e-3, rank=4, grad_clip=0.5, keep="last",
    validate_every=20,
)  # fmt: skip


class FreshReferences:
    """A loss with references that are drawn anew for each update."""

    def __init__(self, kernel: KernelConfig):
        self.like = MMDLoss(ring.points(2000, torch.Generator().manual_seed(0)), kernel)

    def __call__(self, x: Tensor, prompts, random: torch.Generator):
        return MMDLoss(ring.points(FRESH, random), self.like.config, like=self.like)(x)


class Weights:
    """What a LoRA is to a training, of all weights of the network itself."""

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


@dataclass(frozen=True)
class Trained:
    """Attributes:
    network: With what was trained.
    seconds: How long that took, with what else the machine was doing.
    training: The run; `validated` and `best` are of it.
    """

    network: nn.Module
    seconds: float
    training: Training


@dataclass(frozen=True)
class Recipe:
    """How to train: as specified, but for what is given."""

    base: str = "long"
    kernel: str = "rbf"
    references: int = 0  # 0: fresh ones for each update
    validation: int = 0
    chains: tuple[LinearChain, ...] = ()
    full: float = 0.0  # the learning rate of all weights, instead of a LoRA
    options: dict = field(default_factory=dict)  # of DDMConfig


def train(recipe: Recipe, seed: int) -> Trained:
    network = ring.base(recipe.base)
    config = DDMConfig(**{**vars(AS_SPECIFIED), "seed": seed, **recipe.options})
    kernel = KernelConfig(recipe.kernel, multipliers=ring.WIDTHS)
    random = torch.Generator().manual_seed(200_000 + seed)
    loss = FreshReferences(kernel)
    if recipe.references:
        loss = MMDLoss(ring.points(recipe.references, random), kernel)
    held_out = None
    if recipe.validation:
        held_out = MMDLoss(ring.points(recipe.validation, random), kernel, like=loss)
    if recipe.full:
        config = DDMConfig(**{**vars(config), "learning_rate": recipe.full})
        adapter = Weights(network)
    else:
        adapter = LoRA(network, layers(network, "all"), config.rank, config.rank, seed)
    adapter.requires_grad(True)
    chains = recipe.chains or (ring.chain(STEPS),)
    problem = Problem(
        chains, (2,), torch.device("cpu"), lambda noise, sigma: noise * sigma, lambda prompts: ring.denoise(network),
        lambda x, noise, prompts: x, loss, held_out, torch.ones(1),
    )  # fmt: skip
    training = Training(config, problem, adapter)
    began = time.monotonic()
    for _ in training.run():
        pass
    taken = time.monotonic() - began
    adapter.requires_grad(False)
    return Trained(network, taken, training)
