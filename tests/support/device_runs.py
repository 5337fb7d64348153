"""Runs of guidance on random latents, on the CPU or on a device that is not there."""

import math
from dataclasses import dataclass

import torch
from mmd_pack.mmd_core import (
    Base,
    Execution,
    Guidance,
    GuidanceConfig,
    KernelConfig,
    Latents,
    Memory,
    NoiseModel,
    RunTrace,
    Schedule,
    Window,
)
from mmd_tests.support.pretended_device import on_device
from torch import Tensor

FEATURES = 6  # numbers of a prompt


@dataclass(frozen=True)
class Run:
    """A run of guidance, its settings, and how its data are made.

    Arguments:
        mode, kernel, space, prompts: As in `GuidanceConfig` and `KernelConfig`.
        batch, references, shape: How many samples and references, and the shape of one.
        finished, base: How many finished samples and base images.
        budget, record: As in `Execution`.
        stored: The dtype of stored references.
        dtype: The dtype of the samples.
        flow_matching: The model's noise.
        calls: How many model calls of the schedule.
    """

    mode: str = "flow"
    kernel: str = "rbf"
    space: str = "latent"
    prompts: str = "none"
    batch: int = 16
    references: int = 12
    shape: tuple[int, ...] = (4, 8, 8)
    finished: int = 0
    base: int = 0
    budget: float = math.inf
    record: bool = True
    stored: torch.dtype = torch.float32
    dtype: torch.dtype = torch.float32
    flow_matching: bool = False
    strength: float = 30.0
    calls: int = 2

    @property
    def sigmas(self) -> list[float]:
        return torch.linspace(1 if self.flow_matching else 10, 0, 9).tolist()

    def make(self, place) -> Guidance:
        """The guidance, with `place` applied to what lies on the device."""
        rng = torch.Generator().manual_seed(0)
        captioned = self.prompts != "none"

        def drawn(*shape):
            return torch.randn(*shape, generator=rng)

        kernel = KernelConfig(
            self.kernel, feature_space=self.space, prompt_kernel=self.prompts, pool=2
        )
        published = {"paper": 0.5, "official": 0.05, "official_l2norm": 0.05}
        strength = published.get(self.mode, self.strength)
        config = GuidanceConfig(strength, mode=self.mode, kernel=kernel)
        config = config.for_batch(self.batch, bool(self.base))
        weights = torch.arange(1.0, 1 + self.references)
        references = drawn(self.references, *self.shape).to(self.stored)
        captions = drawn(self.references, FEATURES) if captioned else None
        memory = base = None
        if self.finished:
            features = drawn(self.finished, FEATURES) if captioned else None
            memory = Memory(place(drawn(self.finished, *self.shape)), features)
        if self.base:
            features = drawn(self.base, FEATURES) if captioned else None
            equal = torch.full((self.base,), 1 / self.base)
            base = Base(place(drawn(self.base, *self.shape)), equal, features)
        sigmas = self.sigmas
        return Guidance(
            config,
            Latents(references, place(weights / weights.sum())),
            Schedule(sigmas, Window(sigmas[0], sigmas[-2]), NoiseModel(self.flow_matching)),
            memory,
            captions,
            Execution(self.record, self.budget),
            base,
        )

    def samples(self, place) -> tuple[Tensor, Tensor, Tensor | None]:
        """x̂0, the noise, and the features of the prompts."""
        rng = torch.Generator().manual_seed(1)
        x0, noise = (torch.randn(self.batch, *self.shape, generator=rng) for _ in range(2))
        prompts = torch.randn(self.batch, FEATURES, generator=rng)
        return (
            place((0.7 * x0).to(self.dtype)),
            place(noise.to(self.dtype)),
            None if self.prompts == "none" else prompts,
        )

    def draw(self, place=lambda tensor: tensor) -> tuple[list[Tensor], RunTrace | None]:
        """The guided estimates of each call, and the trace."""
        with torch.inference_mode():
            guidance, (x0, noise, prompts) = self.make(place), self.samples(place)
            signal = NoiseModel(self.flow_matching).signal
            guided = [
                guidance(x0, signal(sigma) * x0 + sigma * noise, sigma, prompts)
                for sigma in self.sigmas[: self.calls]
            ]
            return guided, guidance.finished(x0) if self.record else None

    def draw_on_device(self) -> tuple[list[Tensor], RunTrace | None]:
        """The same on the device that is entered."""
        return self.draw(on_device)
