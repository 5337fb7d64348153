"""Draws emoji for the help, by really running the nodes in the demonstration world of emoji."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from mmd_demo.emoji.models import load_emoji
from mmd_demo.emoji.precision import fast_math
from mmd_pack.mmd_core import References
from mmd_pack.nodes.ddm.mmd_prompts import MMDPrompts
from mmd_pack.nodes.guidance.mmd_guided_ksampler import MMDGuidedKSampler
from mmd_pack.nodes.guidance.run.trace import Trace
from mmd_tests.make.sets.fluent import Named, colored, emoji
from PIL import Image
from torch import Tensor

STRENGTH = 30.0  # the default
STEPS, CFG, SEED = 25, 4.0, 1
LATENT = 4, 16, 16


class Drawn(NamedTuple):
    """A batch, and how guidance went."""

    pictures: list[Image.Image]
    trace: Trace


@cache
def world() -> tuple:
    """MODEL, CLIP and VAE, the model in half precision where the processor is faster with it."""
    model, clip, vae = load_emoji("emoji")

    def fast(network: Callable, given: dict) -> Tensor:
        with fast_math():
            return network(given["input"], given["timestep"], **given["c"]).float()

    model.set_model_unet_function_wrapper(fast)
    return model, clip, vae


def prompts(count: int) -> list[str]:
    """Names of faces, none of which is the name of a reference."""
    names = [name for _, name in emoji("faces")[::2]]
    return [names[number % len(names)] for number in range(count)]


def faces(*colors: str) -> list[Named]:
    """Reference pictures: other faces than `prompts`, in these colors by turns."""
    return colored(emoji("faces")[1::2], *colors)


def encoded(pictures: Sequence[Image.Image]) -> Tensor:
    """Latents of pictures, with shape `(n, 4, 16, 16)`."""
    pixels = [torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8) for each in pictures]
    return world()[2].encode(torch.stack(pixels).view(-1, 64, 64, 3) / 255)


def decoded(latents: Tensor) -> list[Image.Image]:
    """Pictures of latents."""
    pixels = world()[2].decode(latents).clamp(0, 1).mul(255).round().byte()
    return [Image.fromarray(each.numpy()) for each in pixels]


def drawn(
    references: References | Sequence[Image.Image],
    texts: Sequence[str],
    strength: float = STRENGTH,
) -> Drawn:
    """A picture for each prompt of `texts`, drawn together towards references."""
    if not isinstance(references, References):
        references = References(encoded(references))
    model, clip, _ = world()
    latent, trace, _ = MMDGuidedKSampler.execute(
        model=model,
        references=references,
        seed=SEED,
        steps=STEPS,
        cfg=CFG,
        sampler_name="euler_ancestral",
        scheduler="karras",
        positive=MMDPrompts.execute(clip, "\n".join(texts)).result[0],
        negative=clip.encode_from_tokens_scheduled(clip.tokenize("")),
        latent_image={"samples": torch.zeros(len(texts), *LATENT)},
        denoise=1.0,
        strength=strength,
        start_percent=0.0,
        end_percent=0.75,
        mode="keep_prompt",
    ).result
    return Drawn(decoded(latent["samples"]), trace)


def guided(*given: object, **options: object) -> list[Image.Image]:
    """The pictures alone."""
    return drawn(*given, **options).pictures
