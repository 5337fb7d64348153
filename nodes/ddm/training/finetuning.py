"""A training from its plan to the trained adapters: what `MMDTrainLoRA` runs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ....mmd_core import References
from ....mmd_core.comparison.by_features import comparable_rows
from ....mmd_core.ddm import (
    MMDLoss,
    Problem,
    Step,
    Training,
)
from .engine import Engine, with_engine
from .features import LatentFeatures, NetworkFeatures, pyramid
from .plan import Plan
from .sampler_chain import schedule

__all__ = ["finetuned"]


def finetuned(plan: Plan, on_step: Callable[[Training, Step], None]) -> Training:
    """Runs the training; calls `on_step(training, step)` after each update."""
    trainings = []

    def body(engine: Engine, max_denoise: bool) -> None:
        training = Training(plan.config, _problem(plan, engine, max_denoise), engine.lora)
        trainings.append(training)
        for step in training.run():
            on_step(training, step)

    sampling = plan.sampling
    sigmas = schedule(plan.setup.model, sampling.sampler_name, sampling.scheduler, sampling.steps)
    shape = tuple(plan.references.latents.shape[1:])
    with_engine(plan.setup, plan.config, sigmas, shape, body)
    return trainings[0]


def _problem(plan: Plan, engine: Engine, max_denoise: bool) -> Problem:
    references, validation, config = plan.references, plan.validation, plan.config
    latents = engine.in_model_space(references.latents)
    weights = references.weights.to(engine.device)
    kernel = plan.kernel
    if config.features == "unet":
        features = NetworkFeatures(engine)
    elif config.features == "pyramid":
        features = LatentFeatures(pyramid)
    else:
        rows, kernel = comparable_rows(plan.kernel, latents, weights)
        features = LatentFeatures(rows)
    prompts_compared = plan.prompt_features is not None
    nearest = _nearest_prompts(references, plan.prompt_features)
    random = torch.Generator().manual_seed(config.seed)

    @torch.no_grad()
    def features_of(latents: Tensor, prompts: list[int]) -> Tensor:
        noise = torch.randn(latents.shape, generator=random).to(latents)
        size = config.micro_batch
        return torch.cat([
            features(latents[i : i + size], noise[i : i + size], prompts[i : i + size])
            for i in range(0, len(latents), size)
        ])  # fmt: skip

    loss = MMDLoss(
        features_of(latents, nearest),
        kernel,
        weights,
        references.prompts if prompts_compared else None,
    )
    held_out = None
    if validation is not None:
        held_out = MMDLoss(
            features_of(
                engine.in_model_space(validation.latents),
                _nearest_prompts(validation, plan.prompt_features),
            ),
            kernel,
            validation.weights.to(engine.device),
            validation.prompts if prompts_compared else None,
            like=loss,
        )
    chances = torch.ones(plan.setup.prompts)
    if prompts_compared:
        chances = torch.zeros(plan.setup.prompts)
        chances.index_add_(0, torch.tensor(nearest), references.weights)

    def scaled(noise: Tensor, sigma: float) -> Tensor:
        return engine.scaled(noise, sigma, max_denoise)

    def denoise(prompts: Sequence[int]) -> Callable[[Tensor, float, Sequence[int]], Tensor]:
        return lambda x, sigma, indices: engine.estimate(x, sigma, [prompts[i] for i in indices])

    return Problem(
        chains=plan.chains,
        shape=tuple(latents.shape[1:]),
        device=engine.device,
        scaled=scaled,
        denoise=denoise,
        features=features,
        loss=loss,
        held_out=held_out,
        chances=chances / chances.sum(),
        prompt_features=plan.prompt_features,
    )


def _nearest_prompts(references: References, prompt_features: Tensor | None) -> list[int]:
    """For each reference, the index of the prompt that is most similar to its caption.

    If prompts are not compared, this is 0 for all.
    """
    if prompt_features is None:
        return [0] * len(references)
    cosine = normalize(references.prompts, dim=1) @ normalize(prompt_features, dim=1).T
    return cosine.argmax(1).tolist()
