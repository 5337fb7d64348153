"""MMD-DDM in pictures: handwritten digits, because a training with emoji would take hours."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from comfy.sd import load_lora_for_models
from mmd_demo.worlds import load_world
from mmd_pack.nodes.ddm.mmd_make_references import MMDMakeReferences
from mmd_pack.nodes.ddm.mmd_train_lora import MMDTrainLoRA
from mmd_tests.make.help.sheets import rows_of
from PIL import Image

import nodes

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

SEED, SHOWN = 1, 10
SETTINGS = {"cfg": 1.0, "sampler_name": "euler", "scheduler": "sgm_uniform"}
LATENT = 1, 8, 8


class Finetuned(NamedTuple):
    """Rows of digits from the same noise by their labels, and MMDTrainLoRA's plot."""

    rows: dict[str, list[Image.Image]]
    plot: Image.Image


@cache
def finetuned() -> Finetuned:
    """Digits in 3 steps before and after training for these, and in 50 steps."""
    model, clip, _ = load_world("digits")
    nothing = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    references = MMDMakeReferences.execute(
        model, nothing, nothing, {"samples": torch.zeros(1, *LATENT)}, 500, steps=50, seed=0, micro_batch=500,
        **SETTINGS,
    ).result[0]  # fmt: skip
    lora, *_, plot = MMDTrainLoRA.execute(
        model, nothing, references, 3, batch_size=100, micro_batch=100, iterations=300, learning_rate=0.002, rank=8,
        targets="all", features="latent", seed=0, autosave="", **SETTINGS,
    ).result  # fmt: skip
    trained = load_lora_for_models(model, None, lora, 1.0, 0)[0]
    rows = {
        f"{name}{steps} steps": digits(each, steps, nothing)
        for steps in (3, 50)
        for name, each in (("", model), ("trained: ", trained))
    }
    return Finetuned(rows, Image.fromarray((plot[0] * 255).round().byte().numpy()))


def digits(model: ModelPatcher, steps: int, prompt: list) -> list[Image.Image]:
    """What a model draws of one noise."""
    empty = {"samples": torch.zeros(SHOWN, *LATENT)}
    given = SEED, steps, *SETTINGS.values(), prompt, prompt, empty
    (latent,) = nodes.KSampler().sample(model, *given)
    shades = latent["samples"][:, 0].clamp(-1, 1).add(1).mul(127.5).round().byte()
    return [Image.fromarray(each.numpy()).convert("RGB") for each in shades]


def few_steps() -> Image.Image:
    """What training does, and that it does it for its own number of steps."""
    return rows_of([*finetuned().rows.items()], SHOWN)


def ddm_plot() -> Image.Image:
    """What MMDTrainLoRA makes of that training."""
    return finetuned().plot
