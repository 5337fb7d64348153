"""References and images of other sizes and other numbers of frames, and sizes that change in a run."""

import math

import comfy.sample
import pytest
import torch
from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
from comfy_extras.nodes_custom_sampler import BasicScheduler, SamplerCustom
from mmd_pack.mmd_core import KernelConfig, References, mmd2
from mmd_pack.nodes.guidance.run import guidance_of_sizes, request
from mmd_pack.nodes.host.fit_latent import fit_latent
from mmd_tests.support.guided_runs import apply, core_draw, guided_draw, make_references, patched
from mmd_tests.support.tiny_models import (
    empty_latent,
    family_prompt,
    gaussian_family,
    prompt,
    random,
)

pytestmark = pytest.mark.comfy
CROPS = ((8, 8), (12, 8), (9, 11), (6, 6), (16, 10))  # heights and widths
WAN = {"positive": family_prompt("WAN21_T2V", 1), "negative": family_prompt("WAN21_T2V", 2)}


@pytest.fixture(scope="module")
def model():
    return gaussian_family("SD15")


@pytest.fixture(scope="module")
def references():
    return make_references()


def distance(samples, references):
    """MMD² to the references at the size of the samples."""
    y = torch.cat([fit_latent(latent, *samples.shape[-2:]) for latent in references.split(1)])
    flat = (y - y.mean(0)).flatten(1)
    return mmd2(samples, y, KernelConfig().resolve(flat @ flat.T, flat.shape[1]))


def crop(height, width, batch=8):
    return {"samples": torch.zeros(batch, 4, height, width)}


def upscaled(model, batch=8):
    """A run of core's LCM sampler that draws from 8×8 to 16×16."""
    sampler = SamplerLCMUpscale.execute(2.0, -1, "bilinear").result[0]
    sigmas = BasicScheduler.execute(model, "normal", 6, 1.0).result[0]
    torch.manual_seed(0)
    drawn = SamplerCustom.execute(
        model, True, 7, 3.0, prompt(1), prompt(2), sampler, sigmas, empty_latent(batch)
    )
    return drawn.result[0]["samples"]


def test_crops_of_a_detailer_are_guided(model, references, monkeypatch):
    """One guided model draws crops of all sizes, twice; references are resized once for each."""
    made = []
    monkeypatch.setattr(
        request,
        "fit_latents",
        lambda *args, **options: made.append(args[1:]) or fit_all(*args, **options),
    )
    guided, trace = apply(model, references, other_sizes="resize")
    for _ in range(2):
        for size in CROPS:
            samples = core_draw(guided, crop(*size))
            unguided = core_draw(model, crop(*size))
            latents = references.latents
            assert distance(samples, latents) < distance(unguided, latents) / 2
    assert made == [size for size in CROPS if size != (8, 8)]
    assert trace.resized == set(made)


fit_all = request.fit_latents


def test_resizing_changes_nothing_at_the_same_size(model, references):
    drawn, trace, report = guided_draw(model, references, other_sizes="resize")
    assert torch.equal(drawn, guided_draw(model, references)[0])
    assert not trace.resized and "resized" not in report


def test_base_images_are_resized_too(model, references):
    base = References(random(4, 4, 8, 8, seed=2) * 5 - 2)
    drawn, _, report = guided_draw(model, references, crop(9, 11), base=base, other_sizes="resize")
    assert not torch.allclose(drawn, core_draw(model, crop(9, 11)))
    assert "resized, in latents to 11×9" in report


def test_kept_references_take_no_more_memory_than_allowed(references, monkeypatch):
    monkeypatch.setattr(request, "KEPT", 2 * 6 * 4 * 64 * 4)  # bytes of two sets of 8×8
    asked = request.Request("test", references, None, resizes=True)
    for size in ((8, 7), (7, 8), (7, 7), (20, 20)):
        asked.latents_at(references, size)
    assert list(asked._resized) == [(False, 20, 20)]


def test_a_size_that_changes_in_a_run_is_followed(model, references):
    guided, trace = apply(model, references, other_sizes="resize")
    samples, unguided = upscaled(guided), upscaled(model)
    assert distance(samples, references.latents) < distance(unguided, references.latents) / 2
    assert len(trace.rows) == 6 and len(trace.runs) == 1


def test_a_size_that_changes_in_a_run_is_refused_in_words(model, references):
    with pytest.raises(ValueError, match=r"from 8×8 to \d+×\d+: set other_sizes"):
        upscaled(patched(model, references))
    guided, trace = apply(model, references, strength=0.0)
    assert torch.equal(upscaled(guided), upscaled(model))
    assert not trace.runs and [problem.short for problem in trace.problems] == ["size changed"]


def test_few_images_keep_their_references_when_the_size_changes(model, references, monkeypatch):
    """What each image of a batch below 8 follows is decided once."""
    made = []

    def noted(*args):
        made.append(original(*args))
        return made[-1]

    original = guidance_of_sizes.make_guidance
    monkeypatch.setattr(guidance_of_sizes, "make_guidance", noted)
    upscaled(patched(model, references, other_sizes="resize"), batch=3)
    chosen = [each.chosen for each in made if len(each.chosen)]
    assert len(chosen) > 1 and all(torch.equal(each, chosen[0]) for each in chosen)


# ---- films


@pytest.fixture(scope="module")
def wan():
    return gaussian_family("WAN21_T2V")


def film(frames, batch=8):
    return {"samples": torch.zeros(batch, 16, frames, 4, 4)}


def drawn(model, noise):
    """Core's KSampler from this noise, in the space of the model."""
    samples = comfy.sample.sample(
        model, noise, 6, 1.0, "euler", "normal", WAN["positive"], WAN["negative"],
        torch.zeros_like(noise), seed=0,
    )  # fmt: skip
    return model.model.process_latent_in(samples)


def test_the_look_of_a_film_is_guided_and_its_motion_is_the_models(wan):
    """The mean of T frames times √T is drawn like a picture from that of the noise.

    The model knows every number by itself, so that the mean and the motion do not mix.
    """
    references, noise = make_references(shape=(16, 4, 4)), random(8, 16, 5, 4, 4, seed=3)
    root = math.sqrt(noise.shape[2])
    inner = wan.model
    scaled = inner.process_latent_in(references.latents.unsqueeze(2)) * root
    of_pictures = References(inner.process_latent_out(scaled).squeeze(2))
    films, unguided = drawn(patched(wan, references), noise), drawn(wan, noise)
    stills = drawn(patched(wan, of_pictures), noise.mean(2, keepdim=True) * root)
    torch.testing.assert_close(films.mean(2, keepdim=True) * root, stills, rtol=1e-3, atol=1e-3)
    motion, own = (f - f.mean(2, keepdim=True) for f in (films, unguided))
    torch.testing.assert_close(motion, own, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(films, unguided, atol=0.1)


def test_films_are_compared_with_films_of_as_many_frames(wan):
    three = make_references(shape=(16, 3, 4, 4))
    samples, _, report = guided_draw(wan, three, film(3), **WAN)
    assert not torch.allclose(samples, core_draw(wan, film(3), **WAN))
    assert "mean over time" not in report
    _, _, report = guided_draw(wan, make_references(shape=(16, 4, 4)), film(3), **WAN)
    assert "Films of 3 frames were compared by their mean over time" in report
    for frames in (1, 2, 5):
        with pytest.raises(ValueError, match=f"have 3 frames, those being drawn {frames}"):
            guided_draw(wan, three, film(frames), **WAN)
