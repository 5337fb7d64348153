"""Strength 0 draws what core draws, bit for bit, in every situation; nothing fails where core does not."""

from functools import cache

import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
from comfy_extras.nodes_custom_sampler import BasicScheduler, SamplerCustom
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_sag import SelfAttentionGuidance
from mmd_pack.mmd_core import KernelConfig
from mmd_tests.support.conditionings import controlled, net, with_options
from mmd_tests.support.guided_runs import core_draw, guided_draw, make_references, patched
from mmd_tests.support.tiny_models import (
    empty_latent,
    family_prompt,
    film_and_sound,
    gaussian_family,
    picture_and_sound_model,
    prompt,
    random,
    tiny_model,
)

pytestmark = pytest.mark.comfy
WAN = {"positive": family_prompt("WAN21_T2V", 1), "negative": family_prompt("WAN21_T2V", 2)}


@cache
def models(name):
    if name == "sound":
        return picture_and_sound_model()
    return tiny_model() if name == "tiny" else gaussian_family(name)


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


def masked(model, count=1, level=1.0):
    mask = torch.zeros(count, 8, 8)
    for i in range(count):
        mask[i, i % 4 + 1 :] = level
    return core_draw(model, {"samples": random(8, 4, 8, 8), "noise_mask": mask})


def with_soft_masks(model):
    return masked(DifferentialDiffusion.execute(model).result[0], 8, 0.5)


def loud(model):
    """As HiDream-O1, whose noise is larger than σ says."""
    kinds = comfy.model_sampling.CONST, comfy.model_sampling.ModelSamplingDiscreteFlow
    sampling = type("Loud", kinds[::-1], {})()
    sampling.noise_scale = 8.0
    model = model.clone()
    model.add_object_patch("model_sampling", sampling)
    return core_draw(model)


def sharing(model):
    """Each image also attends to the first one."""

    def shared(q, k, v, options):
        return q, k + k[:1], v + v[:1]

    model = model.clone()
    model.set_model_attn1_patch(shared)
    return core_draw(model)


def with_hints(model):
    positive, negative = controlled(net(models("tiny")), 8)
    return core_draw(model, positive=positive, negative=negative)


def with_prompts_of_their_own(model):
    areas = with_options(prompt(3), area=(4, 4, 0, 0)) + prompt(4, batch=8)
    return core_draw(model, positive=areas)


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
    "a mask for each image": ("SD15", lambda m: masked(m, 8), PICTURES, {}),
    "soft masks": ("SD15", with_soft_masks, PICTURES, {}),
    "louder noise": ("tiny", loud, PICTURES, {}),
    "Self-Attention Guidance": (
        "tiny", lambda m: core_draw(SelfAttentionGuidance.execute(m, 0.8, 2.0)[0]), PICTURES, {},
    ),
    "shared attention": ("tiny", sharing, PICTURES, {}),
    "a hint for each image": ("tiny", with_hints, PICTURES, {}),
    "a prompt for each image": ("tiny", with_prompts_of_their_own, PICTURES, {}),
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


@pytest.mark.parametrize("split", [{}, {"micro_batch": 3}, {"group_size": 4}])
def test_the_sampler_node_at_strength_0_is_core(split):
    """Parts of the batch differ by rounding, since the network gets other batches."""
    model = models("tiny")
    positive, negative = controlled(net(model), 8)
    prompts = {"positive": positive, "negative": negative}
    drawn, _, _ = guided_draw(model, make_references(), strength=0.0, **prompts, **split)
    torch.testing.assert_close(drawn, core_draw(model, **prompts), rtol=1e-3, atol=1e-3)
