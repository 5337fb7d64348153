"""A whole training, from references to adapters: what `MMDTrainLoRA` does."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.model_management as management
import comfy.sampler_helpers
import torch
from torch import Tensor

from ....mmd_core import KernelConfig, References
from ....mmd_core.comparison.by_features import comparable_rows
from ....mmd_core.ddm import (
    DEFAULT_KERNEL,
    DDMConfig,
    LinearChain,
    MMDLoss,
    Problem,
    Step,
    Training,
)
from ...guidance.run.hook import is_coupled
from ...host.prompts import batch_features, prompt_count
from .engine import Engine, with_engine
from .features import LatentFeatures, NetworkFeatures, pyramid
from .sampler_chain import chain_of, schedule

__all__ = ["Plan", "finetuned", "planned"]

HELD_OUT = 5  # one reference of so many, where no others are given
ENOUGH = 10  # references of which some can be spared


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is known, and was checked, before training starts.

    Attributes:
        chains: The samplers that are trained through; the first is the one that counts.
        prompts: P, the prompts in positive.
        prompt_features: With shape `(P, E)`; None where no prompts are compared.
        validation: What training is judged by; None if nothing can be spared for it.
    """

    model: object
    positive: list
    negative: list | None
    cfg: float
    config: DDMConfig
    kernel: KernelConfig
    sampler_name: str
    scheduler: str
    steps: tuple[int, ...]
    chains: tuple[LinearChain, ...]
    references: References
    validation: References | None
    prompts: int
    prompt_features: Tensor | None
    dtype: str
    save_memory: bool
    initial: dict | None


def planned(
    model, positive, negative, cfg: float, config: DDMConfig, kernel: KernelConfig | None, sampler_name: str,
    scheduler: str, steps: int, jitter: int, references: References, validation: References | None, dtype: str,
    save_memory: bool, initial: dict | None,
) -> Plan:  # fmt: skip
    """Checks everything that can be before the model is copied.

    Raises:
        ValueError: What cannot be trained.
    """
    if is_coupled(model):
        raise ValueError(
            "model is guided by MMD already: connect the model from before ApplyMMDGuidance, since training matches the "
            "references by itself"
        )
    if getattr(management, "sage_attention_enabled", lambda: False)():
        raise ValueError(
            "SageAttention gives no gradients: start ComfyUI without --use-sage-attention for training"
        )
    if "bypass_lora" in getattr(model, "injections", {}):
        raise ValueError(
            "model carries a LoRA in bypass mode, of which a copy knows nothing: load it with bypass off"
        )
    references, validation = (_as_frames(model, given) for given in (references, validation))
    _check_size(model, references, "references")
    if validation is not None:
        _check_size(model, validation, "validation")
        if validation.latents.shape[1:] != references.latents.shape[1:]:
            raise ValueError(
                f"validation is of latents {_size(validation)}, references of {_size(references)}: encode both at one size"
            )
    elif len(references) >= ENOUGH:
        references, validation = _split(references, config.seed)
    for name, given in (("references", references), ("validation", validation)):
        if given is not None and int((given.weights > 0).sum()) < 2:
            raise ValueError(
                f"{name} has {int((given.weights > 0).sum())} image that counts, MMD needs at least 2: connect more"
            )
    kernel = kernel or DEFAULT_KERNEL
    if kernel.feature_space == "patches":
        raise ValueError(
            "patches cannot be trained on: set feature_space of MMDKernel to latent, low_pass or channel_stats"
        )
    if cfg != 1 and negative is None:
        raise ValueError(f"cfg {cfg:g} needs a negative prompt: connect negative, or set cfg to 1")
    entries = comfy.sampler_helpers.convert_cond(positive)
    for entry in [*entries, *comfy.sampler_helpers.convert_cond(negative or [])]:
        if entry.get("control") is not None:
            raise ValueError(
                "the prompts carry a ControlNet, through which no gradient can go: train without, and use the LoRA together "
                "with it afterwards"
            )
    lengths = sorted(
        {max(1, jitter_steps) for jitter_steps in range(steps - jitter, steps + jitter + 1)}
    )
    lengths = (steps, *(length for length in lengths if length != steps))
    chains = tuple(chain_of(model, sampler_name, scheduler, length) for length in lengths)
    prompts = prompt_count(entries)
    features = None
    if prompts > 1 and references.prompts is not None and kernel.prompt_kernel != "none":
        features = batch_features(entries, prompts, chains[0].sigmas[0])
        if features is not None and features.shape[1] != references.prompts.shape[1]:
            raise ValueError(
                f"the prompts have {features.shape[1]} features and the captions of the references "
                f"{references.prompts.shape[1]}: encode the captions with the text encoder (clip) of this checkpoint"
            )
        if features is not None and validation is not None and validation.prompts is None:
            raise ValueError(
                "the references have captions and validation has none: encode both with captions"
            )
    return Plan(
        model, positive, negative, cfg, config, kernel, sampler_name, scheduler, lengths, chains, references,
        validation, prompts, features, dtype, save_memory, initial,
    )  # fmt: skip


def finetuned(plan: Plan, watch: Callable[[Training, Step], None]) -> Training:
    """Trains as planned; `watch` is told of every update."""
    runs = []

    def body(engine: Engine, max_denoise: bool):
        training = Training(plan.config, _problem(plan, engine, max_denoise), engine.lora)
        runs.append(training)
        for step in training.run():
            watch(training, step)

    sigmas = schedule(plan.model, plan.sampler_name, plan.scheduler, plan.steps[0])
    shape = tuple(plan.references.latents.shape[1:])
    with_engine(
        plan.model, plan.positive, plan.negative, plan.cfg, plan.config, plan.dtype, sigmas, shape, plan.prompts,
        plan.initial, plan.save_memory, body,
    )  # fmt: skip
    return runs[0]


def _problem(plan: Plan, engine: Engine, max_denoise: bool) -> Problem:
    references, validation = plan.references, plan.validation
    latents = engine.in_model_space(references.latents)
    weights = references.weights.to(engine.device)
    kernel = plan.kernel
    if plan.config.features == "unet":
        features = NetworkFeatures(engine)
    elif plan.config.features == "pyramid":
        features = LatentFeatures(pyramid)
    else:
        rows, kernel = comparable_rows(plan.kernel, latents, weights)
        features = LatentFeatures(rows)
    owners = _owners(references, plan.prompt_features)
    random = torch.Generator().manual_seed(plan.config.seed)

    @torch.no_grad()
    def of_set(given: References, latents: Tensor, owners: list[int]) -> Tensor:
        noise = torch.randn(latents.shape, generator=random).to(latents)
        size = plan.config.micro_batch
        return torch.cat([
            features(latents[i : i + size], noise[i : i + size], owners[i : i + size])
            for i in range(0, len(given), size)
        ])  # fmt: skip

    compared = plan.prompt_features is not None
    loss = MMDLoss(
        of_set(references, latents, owners),
        kernel,
        weights,
        references.prompts if compared else None,
    )
    held_out = None
    if validation is not None:
        found = of_set(
            validation, engine.in_model_space(validation.latents), _owners(validation, plan.prompt_features)
        )  # fmt: skip
        held_out = MMDLoss(found, kernel, validation.weights.to(engine.device), validation.prompts if compared else None, loss)  # fmt: skip
    chances = torch.ones(plan.prompts)
    if compared:
        chances = torch.zeros(plan.prompts).index_add_(0, torch.tensor(owners), references.weights)

    def denoise(prompts):
        return lambda x, sigma, rows: engine.estimate(x, sigma, [prompts[i] for i in rows])

    return Problem(
        plan.chains, tuple(latents.shape[1:]), engine.device,
        lambda noise, sigma: engine.scaled(noise, sigma, max_denoise), denoise, features, loss, held_out,
        chances / chances.sum(), plan.prompt_features,
    )  # fmt: skip


def _owners(references: References, prompts: Tensor | None) -> list[int]:
    """The prompt that each reference goes with: the one its caption is most alike to."""
    if prompts is None:
        return [0] * len(references)
    alike = torch.nn.functional.normalize(references.prompts, dim=1)
    alike = alike @ torch.nn.functional.normalize(prompts, dim=1).T
    return alike.argmax(1).tolist()


def _split(references: References, seed: int) -> tuple[References, References]:
    """Those to train on and those held out."""
    order = torch.randperm(len(references), generator=torch.Generator().manual_seed(seed)).tolist()
    count = max(2, len(references) // HELD_OUT)
    return _part(references, sorted(order[count:])), _part(references, sorted(order[:count]))


def _part(references: References, index: list[int]) -> References:
    prompts = references.prompts
    return replace(
        references,
        latents=references.latents[index],
        weights=references.weights[index],
        prompts=None if prompts is None else prompts[index],
        names=tuple(references.names[i] for i in index),
        captions=tuple(references.captions[i] for i in index),
        thumbnails=None,
        sizes=tuple(references.sizes[i] for i in index),
    )


def _as_frames(model, references: References | None) -> References | None:
    """For models of video, images are films of one frame."""
    frames = model.get_model_object("latent_format").latent_dimensions == 3
    if references is None or not frames or references.latents.ndim != 4:
        return references
    return replace(references, latents=references.latents.unsqueeze(2))


def _size(references: References) -> str:
    return " × ".join(map(str, references.latents.shape[1:]))


def _check_size(model, references: References, name: str) -> None:
    expected = model.get_model_object("latent_format")
    channels, rank = expected.latent_channels, expected.latent_dimensions + 2
    shape = references.latents.shape
    if len(shape) != rank or shape[1] != channels:
        raise ValueError(
            f"{name} are latents of {_size(references)} numbers, this model draws {channels} channels in "
            f"{rank - 2} dimensions: encode them with the VAE of this checkpoint"
        )
