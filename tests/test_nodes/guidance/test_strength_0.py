"""Strength 0 draws what core draws, bit for bit, in every situation; nothing fails where core does not."""

from functools import cache

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
from comfy_extras.nodes_custom_sampler import BasicScheduler, SamplerCustom
from mmd_pack.mmd_core import KernelConfig
from mmd_tests.support.guided_runs import core_draw, make_references, patched
from mmd_tests.support.tiny_models import (
    empty_latent,
    family_prompt,
    film_and_sound,
    gaussian_family,
    picture_and_sound_model,
    prompt,
    random,
)

pytestmark = pytest.mark.comfy
WAN = {"positive": family_prompt("WAN21_T2V", 1), "negative": family_prompt("WAN21_T2V", 2)}
models = cache(lambda name: picture_and_sound_model() if name == "sound" else gaussian_family(name))


def custom(model, sampler, sigmas):
    torch.manual_seed(0)
    drawn = SamplerCustom.execute(
        model, True, 7, 3.0, prompt(1), prompt(2), sampler, sigmas, empty_latent()
    )
    return drawn.result[0]["samples"]


def upscaled(model):
    sampler = SamplerLCMUpscale.execute(2.0, -1, "bilinear").result[0]
    return custom(model, sampler, BasicScheduler.execute(model, "normal", 6, 1.0).result[0])


def unsampled(model):
    sigmas = BasicScheduler.execute(model, "normal", 4, 1.0).result[0].flip(0)
    sigmas[0] = 0.03
    return custom(model, comfy.samplers.sampler_object("euler"), sigmas)


def in_two_stages(model):
    first = core_draw(model, empty_latent(3), steps=6, last_step=3)
    return core_draw(model, {"samples": first}, steps=6, start_step=3, disable_noise=True)


def masked(model):
    mask = torch.zeros(1, 8, 8)
    mask[:, 4:] = 1
    return core_draw(model, {"samples": random(8, 4, 8, 8), "noise_mask": mask})


def films(frames):
    return {"samples": torch.zeros(8, 16, frames, 4, 4)}


PICTURES, SQUARES = (4, 8, 8), (16, 4, 4)  # the shapes of references
CAPTIONS = {"kernel": KernelConfig(prompt_kernel="cosine")}
SITUATIONS = {  # model, how core draws, references, settings
    "film and sound": ("sound", lambda m: core_draw(m, film_and_sound(), **WAN), SQUARES, {}),
    "sound, other channels": ("sound", lambda m: core_draw(m, film_and_sound(), **WAN), PICTURES, {}),
    "films": ("WAN21_T2V", lambda m: core_draw(m, films(3), **WAN), SQUARES, {}),
    "films of other lengths": (
        "WAN21_T2V", lambda m: core_draw(m, films(3), **WAN), (16, 2, 4, 4), {},
    ),
    "another size": ("SD15", lambda m: core_draw(m, empty_latent(side=6)), PICTURES, {}),
    "another size, resized": (
        "SD15", lambda m: core_draw(m, empty_latent(side=6)), PICTURES, {"other_sizes": "resize"},
    ),
    "a size that changes": ("SD15", upscaled, PICTURES, {}),
    "a size that changes, resized": ("SD15", upscaled, PICTURES, {"other_sizes": "resize"}),
    "other channels": ("SD15", core_draw, SQUARES, {}),
    "no captions": ("SD15", core_draw, PICTURES, CAPTIONS),
    "two stages": ("SD15", in_two_stages, PICTURES, {}),
    "rising sigmas": ("SD15", unsampled, PICTURES, {}),
    "a mask": ("SD15", masked, PICTURES, {}),
    "one image": ("SD15", lambda m: core_draw(m, empty_latent(1)), PICTURES, {}),
    "one step": ("SD15", lambda m: core_draw(m, steps=1), PICTURES, {}),
    "no denoising": ("SD15", lambda m: core_draw(m, denoise=0.0), PICTURES, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_strength_0_is_core(name):
    family, draw, shape, settings = SITUATIONS[name]
    model = models(family)
    guided = patched(model, make_references(shape=shape), strength=0.0, **settings)
    expected, drawn = draw(model), draw(guided)
    pairs = [(expected, drawn)]
    if expected.is_nested:
        pairs = zip(expected.unbind(), drawn.unbind(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
