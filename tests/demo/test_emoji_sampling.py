"""The benchmark's own sampling loop draws what ComfyUI draws with our node, up to rounding."""

from types import SimpleNamespace

import comfy.sample
import comfy.samplers
import pytest
import torch
from mmd_demo.emoji import DENOISER_WEIGHTS
from mmd_demo.emoji.models import load_emoji
from mmd_pack.mmd_core import GuidanceConfig, KernelConfig, References
from mmd_pack.nodes.guidance.apply_mmd_guidance import ApplyMMDGuidance
from mmd_tests.demo.emoji import JUDGE_WEIGHTS
from mmd_tests.studies.quality.emoji.families import FAMILIES
from mmd_tests.studies.quality.emoji.quick import quick_names, quick_trial
from mmd_tests.studies.quality.emoji.sampling import Run, by_mmd, sample
from mmd_tests.studies.quality.emoji.world import load_world

import nodes

pytestmark = pytest.mark.comfy

PROMPTS = tuple(
    ["red heart", "cat face", "hamburger", "blue square", "rose", "house", "bicycle", "clock"]
)
STEPS = 3


@pytest.fixture(scope="module")
def both():
    """ComfyUI's MODELs and CLIP; the benchmark's world; latents and captions of a small set."""
    (flow, clip, _), (eps, _, _) = load_emoji("emoji_flow"), load_emoji("emoji")
    trial = quick_trial()
    world = load_world(DENOISER_WEIGHTS, JUDGE_WEIGHTS, quick_names(trial))
    given, captions = world.encode(trial.given.pixels[:12]), trial.given.names[:12]
    models = {"flow": flow, "eps": eps}
    return SimpleNamespace(models=models, clip=clip, world=world, given=given, captions=captions)


def in_comfyui(both, run: Run, config: GuidanceConfig | None, noise) -> torch.Tensor:
    """What ComfyUI's Euler sampler draws, in the world's own units."""
    encoded = [nodes.CLIPTextEncode().encode(both.clip, prompt)[0][0] for prompt in PROMPTS]
    pooled = torch.cat([options["pooled_output"] for _, options in encoded])
    positive = [[torch.cat([tokens for tokens, _ in encoded]), {"pooled_output": pooled}]]
    [negative] = nodes.CLIPTextEncode().encode(both.clip, "")
    model = both.models[run.family]
    inner, sigmas = model.model, run.rules.levels(run.steps)
    if config:
        captions = [nodes.CLIPTextEncode().encode(both.clip, text)[0][0] for text in both.captions]
        features = torch.cat([options["pooled_output"] for _, options in captions])
        references = References(inner.process_latent_out(both.given), prompts=features)
        settings = {
            name: getattr(config, name)
            for name in ("strength", "start_percent", "end_percent", "mode", "kernel")
        }
        model = ApplyMMDGuidance.execute(model, references, **settings).args[0]
    sampler = comfy.samplers.sampler_object("euler")
    empty = inner.process_latent_out(torch.zeros_like(noise))
    found = comfy.sample.sample_custom(
        model, noise, run.cfg, sampler, sigmas, positive, negative, empty, disable_pbar=True
    )
    return inner.process_latent_in(found)


def by_the_benchmark(both, run: Run, config: GuidanceConfig | None, noise) -> torch.Tensor:
    world, rule = both.world, None
    features, captions = (world.prompt_features(texts) for texts in (PROMPTS, both.captions))
    if not config or config.kernel_config.prompt_kernel == "none":
        features, captions = None, None
    if config:
        rule = by_mmd(run, config, both.given, len(noise), features, captions)
    return sample(run, world.model, world.words(PROMPTS), noise, rule)


@pytest.mark.parametrize(
    ("family", "config", "cfg"),
    [
        ("flow", GuidanceConfig(strength=30.0), 4.0),
        ("flow", GuidanceConfig(kernel=KernelConfig(prompt_kernel="cosine")), 1.0),
        ("flow", GuidanceConfig(mode="official", strength=0.05, end_percent=1.0), 4.0),
        ("eps", None, 4.0),
        ("eps", GuidanceConfig(strength=30.0, start_percent=0.2), 4.0),
    ],
    ids=["flow", "flow, prompts compared, cfg 1", "flow, official", "eps, unguided", "eps"],
)
def test_images_are_those_of_comfyui(both, family, config, cfg):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(PROMPTS), 4, 16, 16, generator=generator)
    run = Run(STEPS, cfg, family, fast=False)
    expected = in_comfyui(both, run, config, noise)
    found = by_the_benchmark(both, run, config, noise)
    assert torch.allclose(found, expected, atol=2e-3)
    if config:
        assert (found - by_the_benchmark(both, run, None, noise)).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_levels_are_those_of_comfyui(both, family):
    ours, comfyui = FAMILIES[family], both.models[family].model.model_sampling
    for percent in (0.0, 0.2, 0.75, 1.0):
        found, expected = ours.level_at(percent), float(comfyui.percent_to_sigma(percent))
        assert found == pytest.approx(expected, rel=1e-4) or min(found, expected) > 1e8
    levels = ours.levels(7)
    assert levels[0] == pytest.approx(float(comfyui.sigma_max), rel=1e-5)
    assert levels[-1] == 0 and (levels.diff() < 0).all()
