"""Draws many images with a model, a few at a time. Each has its own noise and its own prompt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.model_management as management
import comfy.sample
import comfy.utils
import torch
from torch import Tensor

from .particle_noise import ParticleNoise
from .progress import executing_node, show_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True)
class Settings:
    """The settings of KSampler."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    seed: int

    def __str__(self) -> str:
        return f"{self.steps} steps of {self.sampler_name}, {self.scheduler}, cfg {self.cfg:g}"


class Part(NamedTuple):
    """Images that are drawn at once.

    Arguments:
        index: The number of each image, which gives its noise.
        positive: Their CONDITIONING, with one row for each image, or one for all.
        negative: The same for what they should not show.
    """

    index: list[int]
    positive: list
    negative: list


def draw_images(
    model: ModelPatcher,
    empty: Tensor,
    parts: Iterable[Part],
    count: int,
    settings: Settings,
    thing: str,
) -> Tensor:
    """Draws the images of all parts, in float32 on the CPU, in the order of their numbers.

    Progress is shown once for each part.

    Arguments:
        model: The model.
        empty: The empty latent of one image, with shape `(1, C, *)`.
        parts: What is drawn, part by part.
        count: The number of images in all parts.
        settings: How images are drawn.
        thing: What the images are, for the text on the node, for example "references".

    Returns:
        Latents with shape `(count, C, *)`.
    """
    bar, node_id = comfy.utils.ProgressBar(count), executing_node()
    images: dict[int, Tensor] = {}
    for index, positive, negative in parts:
        management.throw_exception_if_processing_interrupted()
        rows = empty.repeat(len(index), *[1] * (empty.ndim - 1))
        drawn = comfy.sample.sample(
            model, ParticleNoise(settings.seed, index)(rows), settings.steps, settings.cfg,
            settings.sampler_name, settings.scheduler, positive, negative, rows,
            seed=(settings.seed + index[0]) % 2**64, disable_pbar=True, callback=_check_interrupt,
        )  # fmt: skip
        images.update(zip(index, drawn.float().cpu(), strict=True))
        bar.update_absolute(len(images), count)
        show_text(f"{len(images)} of {count} {thing}", node_id)
    return torch.stack([images[i] for i in sorted(images)])


def _check_interrupt(*_: Any) -> None:
    """A sampler callback. ComfyUI checks for an interrupt only when it shows progress."""
    management.throw_exception_if_processing_interrupted()
