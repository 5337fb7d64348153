"""Latents of several kinds at once, such as film and sound, which ComfyUI packs into one tensor."""

import pytest
import torch
from mmd_tests.support.guided_runs import core_draw, guided_draw, make_references, patched
from mmd_tests.support.tiny_models import (
    family_prompt,
    film_and_sound,
    picture_and_sound_model,
    random,
)

import nodes

pytestmark = pytest.mark.comfy
PROMPTS = {"positive": family_prompt("WAN21_T2V", 1), "negative": family_prompt("WAN21_T2V", 2)}


@pytest.fixture(scope="module")
def model():
    return picture_and_sound_model()


@pytest.fixture(scope="module")
def references():
    return make_references(shape=(16, 4, 4))


def drawn(model, latent=None, **options):
    """Core's film and sound."""
    return core_draw(model, latent or film_and_sound(), **PROMPTS, **options).unbind()


@pytest.mark.parametrize("batch", [8, 3])
def test_the_picture_is_guided_as_if_it_were_drawn_alone(batch, model, references):
    guided = patched(model, references)
    film, sound = drawn(guided, film_and_sound(batch))
    alone = {"samples": film_and_sound(batch)["samples"].unbind()[0]}
    assert torch.equal(film, core_draw(guided, alone, **PROMPTS))
    unguided, same_sound = drawn(model, film_and_sound(batch))
    assert torch.equal(sound, same_sound) and not torch.allclose(film, unguided)


def test_the_sampler_node_draws_them_all(model, references):
    options = {**PROMPTS, "preview_batch": True, "micro_batch": 1}
    samples, trace, report = guided_draw(model, references, film_and_sound(), **options)
    expected = drawn(patched(model, references))
    assert all(map(torch.equal, samples.unbind(), expected))
    assert trace.batch == 8 and trace.acted and "8 images drawn towards" in report


def test_a_mask_of_the_picture_keeps_it(model, references):
    latent = film_and_sound()
    film, sound = latent["samples"].unbind()
    film += random(*film.shape, seed=5)
    mask = torch.ones(1, 4, 4)
    mask[:, :2] = 0
    (latent,) = nodes.SetLatentNoiseMask().set_mask(latent, mask)
    guided, _ = drawn(patched(model, references), latent)
    unguided, _ = drawn(model, latent)
    torch.testing.assert_close(guided[..., :2, :], film[..., :2, :], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(guided[..., 2:, :], unguided[..., 2:, :])


def test_references_of_other_channels_are_refused(model):
    with pytest.raises(ValueError, match="latent channels"):
        drawn(patched(model, make_references(shape=(8, 4, 4))))
