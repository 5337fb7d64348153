"""The demo worlds are ordinary models to ComfyUI, and their judge agrees with what is asked."""

import numpy as np
import pytest
import torch
from mmd_demo.catalog import WORLDS, load_network
from mmd_demo.digits import digits_draw, digits_split
from mmd_demo.drawing import HUES, KINDS, draw_random
from mmd_demo.edm import denoise, karras_sigmas, sample
from mmd_demo.judge import (
    Judge,
    frechet_distance,
    hue_shares,
    kind_shares,
    total_variation,
)
from mmd_demo.pixel_vae import PixelVAE
from mmd_demo.scenes import shapes_draw
from mmd_demo.text_encoder import WordEncoder
from mmd_demo.vocabulary import word_indices, word_vector

NAMES = list(WORLDS)
PROMPTS = {"shapes": "a blue triangle", "digits": "three"}


def true_pictures(name: str, n: int) -> torch.Tensor:
    """Latents (n, C, H, W) from the world's own data."""
    if name == "shapes":
        return draw_random(n, torch.Generator().manual_seed(0))[0]
    return PixelVAE(WORLDS[name]).encode(digits_split()[2][:n])


def chance_of(name: str, images) -> float:
    """Share of the pictures that the judge takes for what the prompt of this world says."""
    judge = Judge(name)
    wanted = {"shapes": "blue triangle", "digits": "three"}[name]
    return float((judge.probabilities(images).argmax(1) == judge.class_names.index(wanted)).mean())


@pytest.mark.parametrize("name", NAMES)
def test_denoiser_removes_noise(name):
    world = WORLDS[name]
    clean = true_pictures(name, 16)
    network, sigma = load_network(world), torch.full((16,), 0.5)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)) * 0.5
    words = torch.zeros(16, len(world.words))
    error = denoise(network, clean + noise, sigma, words, world.sigma_data) - clean
    assert error.square().mean() < 0.5 * noise.square().mean()


@pytest.mark.parametrize("name", NAMES)
def test_samples_vary_and_are_clear(name):
    world = WORLDS[name]
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(24, world.channels, world.side, world.side, generator=generator)
    sigmas = karras_sigmas(20, world.sigma_min, world.sigma_max)
    words = torch.zeros(24, len(world.words))
    latents = sample(load_network(world), noise, words, world.sigma_data, sigmas)
    images = PixelVAE(world).decode(latents)
    judge = Judge(name)
    assert judge.confidence(images) > 0.75
    assert np.count_nonzero(judge.proportions(images)) >= 4
    assert images.flatten(1).std(1).min() > 0.02


def test_prompts_become_words():
    shapes, digits = WORLDS["shapes"], WORLDS["digits"]
    assert word_indices(shapes, "Two (blue:1.2) triangles!") == [2, len(KINDS) + 4]
    assert word_indices(shapes, "a circle") == [0]
    assert word_indices(digits, "3") == word_indices(digits, "a three") == [3]
    assert word_vector(digits, word_indices(digits, "")).sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_text_encoder_gives_conditioning(name):
    clip = WordEncoder(WORLDS[name])
    tokens = clip.tokenize(PROMPTS[name])
    [[cond, extra]] = clip.encode_from_tokens_scheduled(tokens)
    assert cond.shape == (1, 1, len(WORLDS[name].words))
    assert torch.equal(cond[0], extra["pooled_output"])
    assert torch.equal(clip.encode_from_tokens(tokens), cond)


@pytest.mark.parametrize("name", NAMES)
def test_vae_loses_nothing(name):
    world = WORLDS[name]
    vae = PixelVAE(world)
    levels = torch.randint(256, (3, world.side, world.side, world.channels)) / 255
    pixels = levels.expand(-1, -1, -1, 3)
    latents = vae.encode(pixels)
    assert latents.shape == (3, world.channels, world.side, world.side)
    assert torch.allclose(vae.decode(latents), pixels, atol=1e-6)
    assert torch.allclose(vae.encode(vae.decode(latents)), latents, atol=1e-6)


def test_judge_knows_true_shapes():
    judge = Judge("shapes")
    images = shapes_draw("a blue triangle", 64, seed=1)
    assert chance_of("shapes", images) > 0.85
    shares = judge.proportions(images)
    assert hue_shares(shares)[HUES.index("blue")] > 0.85
    assert kind_shares(shares)[KINDS.index("triangle")] > 0.95


def test_digit_draws_are_disjoint_and_in_proportion():
    shares = {3: 0.5, 8: 0.3, 1: 0.2}
    references, targets = digits_draw(shares, 100, seed=3)
    assert references.shape == (100, 8, 8, 3)
    seen = {tuple(image.flatten().tolist()) for image in references}
    seen_in_training = {tuple(image.flatten().tolist()) for image in digits_split()[0]}
    assert not any(tuple(image.flatten().tolist()) in seen for image in targets)
    assert not seen & seen_in_training
    wanted = [shares.get(digit, 0) for digit in range(10)]
    assert total_variation(Judge("digits").proportions(targets), wanted) < 0.1


def test_frechet_distance_is_a_distance():
    generator = np.random.default_rng(0)
    first = generator.normal(size=(20, 64))
    second = generator.normal(size=(500, 64))
    assert frechet_distance(first, first) < 1e-6
    assert np.isclose(frechet_distance(first, second), frechet_distance(second, first))
    assert np.isclose(frechet_distance(second, second + 1), 64)


@pytest.mark.comfy
@pytest.mark.parametrize("name", NAMES)
def test_core_nodes_draw_what_is_asked(name):
    from mmd_demo.nodes import MMDDemoLatent
    from mmd_demo.worlds import load_world

    import nodes

    model, clip, vae = load_world(name)
    encode = nodes.CLIPTextEncode().encode
    positive, negative = encode(clip, PROMPTS[name])[0], encode(clip, "")[0]
    latent = MMDDemoLatent.execute(name, 12).args[0]
    arguments = (model, 5, 15, 2.0, "euler", "karras", positive, negative, latent)
    (result,) = nodes.KSampler().sample(*arguments)
    (images,) = nodes.VAEDecode().decode(vae, result)
    world = WORLDS[name]
    assert images.shape == (12, world.side, world.side, 3)
    assert images.min() >= 0 and images.max() <= 1
    assert chance_of(name, images) > 0.7
    (again,) = nodes.VAEEncode().encode(vae, images)
    assert torch.allclose(again["samples"], result["samples"].clamp(-1, 1), atol=1e-5)


@pytest.mark.comfy
@pytest.mark.parametrize("name", NAMES)
def test_comfyui_denoises_as_in_training(name):
    from mmd_demo.worlds import load_world

    world = WORLDS[name]
    model, _, _ = load_world(name)
    generator = torch.Generator().manual_seed(4)
    noisy = torch.randn(2, world.channels, world.side, world.side, generator=generator) * 3
    sigma, words = torch.full((2,), 3.0), torch.zeros(2, len(world.words))
    words[:, 1] = 1
    expected = denoise(load_network(world), noisy, sigma, words, world.sigma_data)
    found = model.model.apply_model(noisy, sigma, c_crossattn=words[:, None])
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.comfy
def test_node_schemas_are_complete():
    import asyncio

    from mmd_demo.nodes import DemoExtension

    for node in asyncio.run(DemoExtension().get_node_list()):
        schema = node.GET_SCHEMA()
        assert schema.node_id.startswith("MMDDemo")
        assert all(entry.tooltip for entry in schema.inputs + schema.outputs)
