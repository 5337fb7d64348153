"""Draws many images with a model, a few at a time.

Each has its own noise, and uses the prompt, hint, mask and latent that it has in the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.model_management as management
import comfy.sample
import comfy.utils
import torch
from torch import Tensor

from .groups import Group
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
        positive: The CONDITIONING of the whole batch, or of these images.
        negative: The CONDITIONING of the whole batch, for what they should not show.
    """

    index: list[int]
    positive: list
    negative: list


class Batch(NamedTuple):
    """The whole batch, of which images are drawn.

    Arguments:
        size: The number of its images.
        whole: The names of the prompts that are given for the whole batch.
        node: The name of the node, for messages.
    """

    size: int
    whole: tuple[str, ...]
    node: str


def draw_images(
    model: ModelPatcher,
    empty: Tensor,
    batch: Batch,
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
        batch: The whole batch.
        parts: What is drawn, part by part.
        count: The number of images in all parts.
        settings: How images are drawn.
        thing: What the images are, for the text on the node, for example "references".

    Returns:
        Latents with shape `(count, C, *)`.

    Raises:
        ValueError: The images of the batch depend on each other, or on something that cannot be
            divided among them.
    """
    bar, node_id = comfy.utils.ProgressBar(count), executing_node()
    images: dict[int, Tensor] = {}
    # ComfyUI prepares the whole batch, but draws only a part: this takes the memory of one image.
    whole = empty.to(model.load_device, torch.float32).expand(batch.size, *empty.shape[1:])
    cure = f"set micro_batch to {batch.size}, or leave this patch or conditioning out"
    for index, positive, negative in parts:
        management.throw_exception_if_processing_interrupted()
        noise = ParticleNoise(settings.seed, index)(empty)
        group = Group(
            index, batch.size, batch.node, cure, noise, (settings.seed + index[0]) % 2**64,
            batch.whole,
        )  # fmt: skip
        all_of_it = len(index) == batch.size
        drawn = comfy.sample.sample(
            model if all_of_it else group.of_model(model), noise if all_of_it else whole,
            settings.steps, settings.cfg, settings.sampler_name, settings.scheduler, positive,
            negative, whole, seed=settings.seed, disable_pbar=True, callback=_check_interrupt,
        )  # fmt: skip
        images.update(zip(index, drawn.float().cpu(), strict=True))
        bar.update_absolute(len(images), count)
        show_text(f"{len(images)} of {count} {thing}", node_id)
    return torch.stack([images[i] for i in sorted(images)])


def _check_interrupt(*_: Any) -> None:
    """A sampler callback. ComfyUI checks for an interrupt only when it shows progress."""
    management.throw_exception_if_processing_interrupted()
