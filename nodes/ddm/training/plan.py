"""The plan of a training. Everything that can be checked before training is checked here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import comfy.model_management as management
import comfy.sampler_helpers
import torch
from torch import Tensor

from ....mmd_core import KernelConfig, References
from ....mmd_core.ddm import DDMConfig, LinearChain
from ...guidance.run.hook import is_coupled
from ...host.prompts import batch_features
from .engine import ModelSetup
from .sampler_chain import SamplerSettings, linear_chain

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

__all__ = ["Plan", "planned"]

HELD_OUT_SHARE = 5  # one of this many references is held out, without other images for validation
MIN_TO_HOLD_OUT = 10  # references; of fewer, none is held out


@dataclass(frozen=True, eq=False)
class Plan:
    """A training that was checked.

    Attributes:
        setup: The model, and how it runs.
        sampling: The sampler for which the model is trained.
        config: The settings of the training.
        kernel: The kernel of the MMD.
        chains: The samplers in training. Validation uses the first.
        references: The references for training.
        validation: The held-out references; None if there are too few references.
        prompt_features: The features of the prompts, with shape `(P, E)`; None if prompts are not
            compared.
    """

    setup: ModelSetup
    sampling: SamplerSettings
    config: DDMConfig
    kernel: KernelConfig
    chains: tuple[LinearChain, ...]
    references: References
    validation: References | None
    prompt_features: Tensor | None


def planned(
    setup: ModelSetup,
    sampling: SamplerSettings,
    config: DDMConfig,
    kernel: KernelConfig,
    references: References,
    validation: References | None,
) -> Plan:
    """Checks all inputs, and holds out some of the references if `validation` is None.

    The model is not copied.

    Raises:
        ValueError: The inputs do not fit each other, or allow no training.
    """
    model = setup.model
    _check_model(model)
    references = _as_videos(model, references)
    _check_shape(model, references, "references")
    if validation is not None:
        validation = _as_videos(model, validation)
        _check_shape(model, validation, "validation")
        if validation.latents.shape[1:] != references.latents.shape[1:]:
            raise ValueError(
                f"validation has latents of {_shape(validation)}, references of "
                f"{_shape(references)}: encode both at one size"
            )
    elif len(references) >= MIN_TO_HOLD_OUT:
        references, validation = _split(references, config.seed)
    _check_count(references, "references")
    if validation is not None:
        _check_count(validation, "validation")
    if kernel.feature_space == "patches":
        raise ValueError(
            "patches cannot be used in training: set feature_space of MMDKernel to latent, "
            "low_pass or palette"
        )
    _check_prompts(setup)
    chains = tuple(
        linear_chain(model, sampling.sampler_name, sampling.scheduler, steps)
        for steps in sampling.step_counts
    )
    features = None
    if setup.prompts > 1 and references.prompts is not None and kernel.prompt_kernel != "none":
        features = _prompt_features(setup, references, validation, chains[0].sigmas[0])
    return Plan(setup, sampling, config, kernel, chains, references, validation, features)


def _check_model(model: ModelPatcher) -> None:
    if is_coupled(model):
        raise ValueError(
            "model already has MMD guidance: connect the model from before ApplyMMDGuidance, "
            "training itself matches the references"
        )
    if getattr(management, "sage_attention_enabled", lambda: False)():
        raise ValueError(
            "SageAttention computes no gradients: start ComfyUI without --use-sage-attention for "
            "training"
        )
    if "bypass_lora" in getattr(model, "injections", {}):
        raise ValueError(
            "model has a LoRA in bypass mode, which cannot be copied: load it with bypass off"
        )


def _check_prompts(setup: ModelSetup) -> None:
    if setup.cfg != 1 and setup.negative is None:
        raise ValueError(
            f"cfg {setup.cfg:g} needs a negative prompt: connect negative, or set cfg to 1"
        )
    for conditioning in (setup.positive, setup.negative or []):
        for entry in comfy.sampler_helpers.convert_cond(conditioning):
            if entry.get("control") is not None:
                raise ValueError(
                    "the prompts have a ControlNet, which has no gradients: train without it, and "
                    "use the LoRA together with it afterwards"
                )


def _prompt_features(
    setup: ModelSetup, references: References, validation: References | None, sigma: float
) -> Tensor | None:
    """The features of the prompts, with shape `(P, E)`; None if no prompt is active at `sigma`."""
    entries = comfy.sampler_helpers.convert_cond(setup.positive)
    features = batch_features(entries, setup.prompts, sigma)
    if features is None:
        return None
    if features.shape[1] != references.prompts.shape[1]:
        raise ValueError(
            f"the prompts have {features.shape[1]} features and the captions of the references "
            f"{references.prompts.shape[1]}: encode the captions with the text encoder (clip) of "
            "this checkpoint"
        )
    if validation is not None and validation.prompts is None:
        raise ValueError(
            "the references have captions and validation has none: encode both with captions"
        )
    return features


def _split(references: References, seed: int) -> tuple[References, References]:
    """The references for training, and those that are held out."""
    order = torch.randperm(len(references), generator=torch.Generator().manual_seed(seed)).tolist()
    count = max(2, len(references) // HELD_OUT_SHARE)
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


def _as_videos(model: ModelPatcher, references: References) -> References:
    """For video models, the references as videos of one frame."""
    video = model.get_model_object("latent_format").latent_dimensions == 3
    if not video or references.latents.ndim != 4:
        return references
    return replace(references, latents=references.latents.unsqueeze(2))


def _shape(references: References) -> str:
    """The shape of one latent, as text."""
    return " × ".join(map(str, references.latents.shape[1:]))


def _check_shape(model: ModelPatcher, references: References, name: str) -> None:
    expected = model.get_model_object("latent_format")
    channels, rank = expected.latent_channels, expected.latent_dimensions + 2
    shape = references.latents.shape
    if len(shape) != rank or shape[1] != channels:
        raise ValueError(
            f"{name} has latents of {_shape(references)} numbers, this model has latents of "
            f"{channels} channels in {rank - 2} dimensions: encode {name} with the VAE of this "
            "checkpoint"
        )


def _check_count(references: References, name: str) -> None:
    count = int((references.weights > 0).sum())
    if count < 2:
        raise ValueError(
            f"{name} has {count} image with a weight above 0, the MMD needs at least 2: connect "
            "more"
        )
