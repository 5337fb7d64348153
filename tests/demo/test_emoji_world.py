"""The world emoji is an ordinary model to ComfyUI, in two families, and does what its network does."""

import logging
from functools import cache
from pathlib import Path

import comfy.lora
import comfy.sd
import numpy as np
import pytest
import torch
from mmd_demo.emoji import DENOISER_WEIGHTS, VAE_WEIGHTS
from mmd_demo.emoji.denoiser import EmojiModel
from mmd_demo.emoji.models import load_emoji, read_weights
from mmd_demo.emoji.text_encoder import load_clip
from mmd_demo.emoji.vae import EmojiVAE
from mmd_demo.nodes import MMDDemoLatent
from mmd_pack.mmd_core import References
from mmd_pack.mmd_core.ddm.lora import layers
from mmd_pack.nodes.host.vae_match import agreement, wrong_vae
from mmd_pack.nodes.references.encode_reference_latents import EncodeReferenceLatents
from mmd_tests.support.ddm_runs import LORA, trained, with_lora
from safetensors.torch import load_file

import nodes

pytestmark = pytest.mark.comfy

DEMO = Path(__file__).parent
FAMILIES = ("emoji", "emoji_flow")
SHAPE = (2, 4, 16, 16)


@cache
def world(family: str):
    """MODEL, CLIP and VAE."""
    return load_emoji(family)


@cache
def plain_network():
    """The network as its training knows it."""
    _, vocabulary, options = read_weights()
    network = EmojiModel(len(vocabulary), **options)
    weights = load_file(DENOISER_WEIGHTS)
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return network.eval(), vocabulary


def plain_estimate(noisy: torch.Tensor, time: float, prompt: str) -> torch.Tensor:
    """What the plain network takes for the picture in `noisy`, which is (1 - t) x + t n."""
    network, vocabulary = plain_network()
    numbers = [1 + vocabulary.index(word) for word in prompt.split()]
    words = torch.tensor([numbers + [0] * (16 - len(numbers))] * len(noisy))
    with torch.no_grad():
        return noisy - time * network(noisy, torch.full((len(noisy),), time), words)


def conditioning(family: str, prompt: str):
    return nodes.CLIPTextEncode().encode(world(family)[1], prompt)[0]


def noise(shape=SHAPE, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def estimate(family: str, positive, cfg: float = 1.0, negative=None, model=None) -> torch.Tensor:
    """x̂0 at the highest noise level: what KSampler ends at after its only step."""
    model = world(family)[0] if model is None else model
    negative = conditioning(family, "") if negative is None else negative
    latent = {"samples": torch.zeros(SHAPE)}
    arguments = (model, 3, 1, cfg, "euler", "simple", positive, negative, latent)
    [found] = nodes.KSampler().sample(*arguments)
    return model.model.process_latent_in(found["samples"])


def pictures() -> torch.Tensor:
    """Stored pictures that no network was trained on (8, 64, 64, 3)."""
    image = pytest.importorskip("PIL.Image")
    files = sorted((DEMO / "references" / "emoji").glob("*.png"))[::8]
    return torch.stack([torch.from_numpy(np.array(image.open(file))) for file in files]) / 255


# --- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [0.05, 0.3, 0.6, 0.9])
def test_both_families_estimate_what_the_plain_network_does(time):
    clean, added = noise(seed=1), noise(seed=2)
    words = conditioning("emoji", "red heart")[0][0].expand(2, -1, -1)
    flow = world("emoji_flow")[0].model
    noisy = (1 - time) * clean + time * added
    found = flow.apply_model(noisy, torch.full((2,), time), c_crossattn=words)
    assert torch.allclose(found, plain_estimate(noisy, time, "red heart"), atol=1e-4)

    eps = world("emoji")[0].model
    sampling = eps.model_sampling
    sigma = sampling.sigma(sampling.timestep(torch.tensor([time / (1 - time)]))).expand(2)
    time = float(sigma[0] / (1 + sigma[0]))  # the nearest that the discrete schedule has
    noisy = (1 - time) * clean + time * added
    found = eps.apply_model(noisy * (1 + sigma[0]), sigma, c_crossattn=words)
    assert torch.allclose(found, plain_estimate(noisy, time, "red heart"), atol=1e-4)


def test_noise_levels_are_those_of_the_large_models():
    eps, flow = (world(family)[0].model.model_sampling for family in FAMILIES)
    assert float(eps.sigma_min) == pytest.approx(0.0292, abs=1e-4)
    assert float(eps.sigma_max) == pytest.approx(14.6146, abs=1e-3)
    assert flow.percent_to_sigma(0.5) == pytest.approx(2 / 3)  # shift 2


@pytest.mark.parametrize("family", FAMILIES)
def test_ksampler_draws_what_the_words_say(family):
    model, _, vae = world(family)
    hues = {}
    for prompt in ("red heart", "blue square"):
        latent = MMDDemoLatent.execute(family, 2).args[0]
        words = conditioning(family, prompt), conditioning(family, "")
        [drawn] = nodes.KSampler().sample(model, 1, 10, 4.0, "euler", "normal", *words, latent)
        [images] = nodes.VAEDecode().decode(vae, drawn)
        assert images.shape == (2, 64, 64, 3)
        assert images.min() >= 0 and images.max() <= 1
        hues[prompt] = (images[..., 0] - images[..., 2]).mean((1, 2))
    assert (hues["red heart"] > 0.15).all() and (hues["blue square"] < -0.15).all()


def test_empty_latents_of_core_have_the_right_size():
    [latent] = nodes.EmptyLatentImage().generate(64, 96, 1)
    words = conditioning("emoji", "cat"), conditioning("emoji", "")
    [drawn] = nodes.KSampler().sample(
        world("emoji")[0], 1, 1, 1.0, "euler", "normal", *words, latent
    )
    knows_ratios = "downscale_ratio_spacial" in latent  # else all latents are of one eighth
    assert drawn["samples"].shape == (1, 4, *((24, 16) if knows_ratios else (12, 8)))


def test_memory_estimates_are_modest():
    """Of 32 pictures: more than the largest map of the network, less than a gigabyte."""
    needed = world("emoji")[0].model.memory_required([32, 4, 16, 16])
    assert 32 * 2 * 704 * 80 * 4 < needed < 2**30


# --- prompts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_cfg_and_negative_prompts_follow_the_formula(family):
    positive, negative = (conditioning(family, prompt) for prompt in ("red heart", "clock"))
    with_words, without = estimate(family, positive), estimate(family, negative)
    assert (with_words - without).abs().max() > 0.1
    found = estimate(family, positive, 4.0, negative)
    assert torch.allclose(found, without + 4 * (with_words - without), atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_prompts_change_their_region_only(family):
    everywhere, there = (conditioning(family, prompt) for prompt in ("blue square", "red heart"))
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    [masked] = nodes.ConditioningSetMask().append(there, mask, "default", 1.0)
    [both] = nodes.ConditioningCombine().combine(everywhere, masked)
    alone = estimate(family, everywhere)
    expected = torch.cat([(alone + estimate(family, there))[..., :8] / 2, alone[..., 8:]], -1)
    assert torch.allclose(estimate(family, both), expected, atol=1e-3)


def test_areas_change_their_region_only_and_may_have_odd_sizes():
    everywhere, there = (conditioning("emoji", prompt) for prompt in ("blue square", "red heart"))
    area = nodes.ConditioningSetAreaPercentage().append(there, 0.45, 1.0, 0.0, 0.0, 1.0)[0]
    [both] = nodes.ConditioningCombine().combine(everywhere, area)
    change = (estimate("emoji", both) - estimate("emoji", everywhere)).abs().mean((0, 1, 2))
    assert change[:4].min() > 0.01
    assert change[8:].max() < 1e-3


def test_prompts_of_different_lengths_stay_as_they_are():
    short, other = (conditioning("emoji", prompt) for prompt in ("red heart", "clock"))
    [longer] = nodes.ConditioningConcat().concat(short, other)
    [both] = nodes.ConditioningCombine().combine(short, longer)
    expected = (estimate("emoji", short) + estimate("emoji", longer)) / 2
    assert torch.allclose(estimate("emoji", both), expected, atol=1e-3)


def test_a_batch_may_have_a_prompt_for_each_picture():
    prompts = [conditioning("emoji", prompt) for prompt in ("red heart", "blue square")]
    rows = [[torch.cat([prompt[0][0] for prompt in prompts]), dict(prompts[0][0][1])]]
    found = estimate("emoji", rows)
    for row, prompt in enumerate(prompts):
        assert torch.allclose(found[row], estimate("emoji", prompt)[row], atol=1e-3)


def test_emphasis_scales_the_vector_of_a_word():
    plain, strong = (conditioning("emoji", p)[0][0] for p in ("red heart", "(red:1.5) heart"))
    assert torch.allclose(strong[0, 0], 1.5 * plain[0, 0])
    assert torch.equal(strong[0, 1:], plain[0, 1:])
    assert not plain[0, 2:].any()
    one, many = (conditioning("emoji", prompt)[0][0] for prompt in ("apple", "apples"))
    assert torch.equal(one, many)


def test_unknown_words_are_left_out_and_reported_once(caplog):
    clip = load_clip(["heart", "red"], {"weight": torch.arange(3.0)[:, None].expand(3, 128)})
    with caplog.at_level(logging.WARNING):
        cond = clip.encode_from_tokens(clip.tokenize("a red zzgrok heart"))
        clip.clone().tokenize("zzgrok")
    assert cond[0, :3, 0].tolist() == [2, 1, 0]
    told = [record.getMessage() for record in caplog.records if "zzgrok" in record.getMessage()]
    assert len(told) == 1


def test_all_words_of_the_demonstration_are_known():
    from mmd_tests.demo.draw import PROMPTS

    vocabulary = plain_network()[1]
    assert {word for prompt in PROMPTS for word in prompt.split()} <= set(vocabulary)


# --- LoRA -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_loras_reach_model_and_clip(family):
    model, clip, _ = world(family)
    network, key = model.model.diffusion_model, "transformer.3.narrow"
    weight = network.get_submodule(key).weight
    up, down = noise((weight.shape[0], 2), 5), noise((2, weight.shape[1]), 6)
    words = noise((1, 128), 7)
    file = {
        f"diffusion_model.{key}.lora_up.weight": up,
        f"diffusion_model.{key}.lora_down.weight": down,
        "text_encoders.words.lora_up.weight": torch.ones(len(clip.get_sd()["words.weight"]), 1),
        "text_encoders.words.lora_down.weight": words,
    }
    model_with, clip_with = comfy.sd.load_lora_for_models(model, clip, file, 0.05, 2.0)
    plain = conditioning(family, "red heart")[0][0]
    changed = clip_with.encode_from_tokens(clip_with.tokenize("red heart"))
    assert torch.allclose(changed[0, :2], plain[0, :2] + 2 * words, atol=1e-4)

    positive = conditioning(family, "red heart")
    before = estimate(family, positive)
    found = estimate(family, positive, model=model_with)
    again = estimate(family, positive)
    assert torch.equal(before, again)
    by_hand = model.clone()
    by_hand.add_patches({f"diffusion_model.{key}.weight": ("diff", (up @ down,))}, 0.05)
    expected = estimate(family, positive, model=by_hand)
    assert (found - before).abs().max() > 1e-2
    assert torch.allclose(found, expected, atol=1e-3)
    assert torch.equal(conditioning(family, "red heart")[0][0], plain)


def test_all_layers_can_be_finetuned_and_loaded():
    names = layers(world("emoji")[0].model.diffusion_model, "all")
    assert {"transformer.0.query_key_value", "down.0.conv1", "modulate"} <= set(names)
    known = comfy.lora.model_lora_keys_unet(world("emoji")[0].model, {})
    assert all(f"diffusion_model.{name}" in known for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_mmd_train_lora_trains_it(family):
    model, _, vae = world(family)
    references = References(vae.encode(pictures()))
    positive = conditioning(family, "red heart")
    lora = trained(model, positive=positive, refs=references, batch_size=2, iterations=1)[LORA]
    before = estimate(family, positive)
    assert not torch.equal(estimate(family, positive, model=with_lora(model, lora)), before)


# --- the autoencoder ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_vae_keeps_pictures(family):
    vae = world(family)[2]
    real = pictures()
    [latent] = nodes.VAEEncode().encode(vae, real)
    assert latent["samples"].shape == (8, 4, 16, 16)
    [decoded] = nodes.VAEDecode().decode(vae, latent)
    errors = (decoded - real).square().mean((1, 2, 3))
    assert (-10 * errors.log10()).mean() >= 28


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_have_units_of_their_own(family):
    model, _, vae = world(family)
    plain, real = EmojiVAE(), pictures()
    plain.load_state_dict(load_file(VAE_WEIGHTS))
    with torch.no_grad():
        expected = plain.encode(2 * real.movedim(-1, 1) - 1)
    latents = vae.encode(real)
    assert torch.allclose(model.model.process_latent_in(latents), expected, atol=1e-3)
    assert torch.allclose(model.model.process_latent_out(expected), latents, atol=1e-2)
    assert latents.std() > 2 * expected.std()


def test_tiles_and_other_sizes():
    vae = world("emoji")[2]
    wide = torch.cat([*pictures()[:3]], 1)[None]  # 64 x 192
    latents = vae.encode(wide)
    assert latents.shape == (1, 4, 16, 48)
    tiled = vae.decode_tiled(latents, tile_x=32, tile_y=32, overlap=8)
    assert tiled.shape == (1, 64, 192, 3)
    assert (tiled - vae.decode(latents)).abs().mean() < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_encode_reference_latents_takes_the_vae(family):
    model, _, vae = world(family)
    target = [{"samples": torch.zeros(SHAPE)}]
    options = {"width": [64], "height": [64], "fit": ["crop"]}
    found = EncodeReferenceLatents.execute(vae=[vae], images=[pictures()], target=target, **options)
    references = found.result[0]
    assert references.latents.shape == (8, 4, 16, 16)
    assert 0.5 < float(model.model.process_latent_in(references.latents).std()) < 1.5
    assert wrong_vae(references, model.model.latent_format) is None
    assert agreement(references, model.model.latent_format).min() > 0.7
