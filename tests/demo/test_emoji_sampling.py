"""The benchmark's own sampling loop draws what ComfyUI draws with our node, up to rounding."""

from types import SimpleNamespace

import comfy.sample
import comfy.samplers
import pytest
import torch
from mmd_demo.emoji.models import load_emoji
from mmd_pack.mmd_core import GuidanceConfig, KernelConfig, References
from mmd_pack.nodes.guidance.apply_mmd_guidance import ApplyMMDGuidance
from mmd_tests.studies.quality.emoji import sampling
from mmd_tests.studies.quality.emoji.options import WEIGHTS
from mmd_tests.studies.quality.emoji.quick import quick_names, quick_trial
from mmd_tests.studies.quality.emoji.world import load_world

import nodes

pytestmark = pytest.mark.comfy

PROMPTS = tuple(
    ["red heart", "cat face", "hamburger", "blue square", "rose", "house", "bicycle", "clock"]
)
STEPS = 6


@pytest.fixture(scope="module")
def both():
    """ComfyUI's MODEL and CLIP; the benchmark's world; latents and captions of a small set."""
    model, clip, _ = load_emoji("emoji_flow")
    trial = quick_trial()
    weights = WEIGHTS / "denoiser.safetensors", WEIGHTS / "judge.safetensors"
    world = load_world(*weights, quick_names(trial))
    given, captions = world.encode(trial.given.pixels[:12]), trial.given.names[:12]
    return SimpleNamespace(model=model, clip=clip, world=world, given=given, captions=captions)


def in_comfyui(both, config: GuidanceConfig | None, noise, sigmas, cfg: float) -> torch.Tensor:
    """What ComfyUI's Euler sampler draws, in the world's own units."""
    encoded = [nodes.CLIPTextEncode().encode(both.clip, prompt)[0][0] for prompt in PROMPTS]
    pooled = torch.cat([options["pooled_output"] for _, options in encoded])
    positive = [[torch.cat([tokens for tokens, _ in encoded]), {"pooled_output": pooled}]]
    [negative] = nodes.CLIPTextEncode().encode(both.clip, "")
    model, inner = both.model, both.model.model
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
        model, noise, cfg, sampler, sigmas, positive, negative, empty, disable_pbar=True
    )
    return inner.process_latent_in(found)


def by_the_benchmark(both, config: GuidanceConfig | None, noise, sigmas, cfg: float):
    world, guidance = both.world, None
    features, captions = (world.prompt_features(texts) for texts in (PROMPTS, both.captions))
    if not config or config.kernel_config.prompt_kernel == "none":
        features, captions = None, None
    if config:
        arguments = (config, both.given, sigmas, len(noise), captions)
        guidance = sampling.make_guidance(*arguments)
    arguments = (world.model, world.words(PROMPTS), noise, sigmas, cfg, guidance, features)
    return sampling.sample(*arguments, fast=False)


@pytest.mark.parametrize(
    ("config", "cfg"),
    [
        (None, 4.0),
        (GuidanceConfig(strength=30.0), 4.0),
        (GuidanceConfig(strength=30.0), 1.0),
        (GuidanceConfig(kernel=KernelConfig(prompt_kernel="cosine")), 4.0),
        (GuidanceConfig(mode="official", strength=0.05, end_percent=1.0), 4.0),
    ],
    ids=["unguided", "guided", "cfg 1", "prompt-aware", "official"],
)
def test_images_are_those_of_comfyui(both, config, cfg):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(PROMPTS), 4, 16, 16, generator=generator)
    sigmas = sampling.noise_levels(STEPS)
    expected = in_comfyui(both, config, noise, sigmas, cfg)
    found = by_the_benchmark(both, config, noise, sigmas, cfg)
    assert torch.allclose(found, expected, atol=2e-3)
    if config:
        plain = by_the_benchmark(both, None, noise, sigmas, cfg)
        assert (found - plain).abs().max() > 0.1


def test_the_window_is_where_comfyui_has_it(both):
    comfyui = both.model.model.model_sampling
    for percent in (0.0, 0.25, 0.75, 1.0):
        expected = float(comfyui.percent_to_sigma(percent))
        assert sampling.percent_to_sigma(percent) == pytest.approx(expected, abs=1e-6)
