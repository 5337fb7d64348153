"""Noise masks: the new part is guided, whatever is kept, and the kept part says which references suit."""

import pytest
import torch
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from mmd_pack.mmd_core import References
from mmd_pack.nodes.guidance.run.compared_part import ComparedPart
from mmd_pack.nodes.guidance.run.open_part import open_part
from mmd_tests.support.guided_runs import core_draw, guided_draw
from mmd_tests.support.tiny_models import gaussian_family, random

pytestmark = pytest.mark.comfy

SIDE = 12


@pytest.fixture(scope="module")
def model():
    """It draws N(0, 1), number by number, in its own space."""
    return gaussian_family("SD15")


def raw(model, latents):
    return model.model.process_latent_out(latents)


def seen(model, latents):
    return model.model.process_latent_in(latents)


def set_around(model, *means, n=24):
    """References around each of the means by turns, in the model's space."""
    noise = random(n, 4, SIDE, SIDE, seed=1) / 2
    shifts = torch.tensor(means).repeat(n // len(means))[:, None, None, None]
    return References(raw(model, noise + shifts))


def lower_half(batch=1):
    mask = torch.zeros(batch, SIDE, SIDE)
    mask[:, SIDE // 2 :] = 1
    return mask


def kept_latent(model, level, mask, batch=8):
    """A LATENT around `level` in the model's space, of which the mask keeps a part."""
    pictures = random(batch, 4, SIDE, SIDE, seed=2) / 2 + level
    return {"samples": raw(model, pictures), "noise_mask": mask}


@pytest.mark.parametrize("level", [0.7, -6.0], ids=["like the set", "unlike the set"])
@pytest.mark.parametrize("mode", ["flow", "keep_prompt"])
def test_the_new_part_follows_the_set_whatever_is_kept(level, mode, model):
    """It comes as near as without a mask, and the kept part is core's."""
    references = set_around(model, 0.7)
    latent = kept_latent(model, level, lower_half())
    options = {"mode": mode, "strength": 30.0, "steps": 8}
    samples, trace, report = guided_draw(model, references, latent, **options)
    assert "only the new part was compared" in report
    core = core_draw(model, latent, steps=8)
    torch.testing.assert_close(samples[..., : SIDE // 2, :], core[..., : SIDE // 2, :])
    free, _, _ = guided_draw(model, references, {"samples": latent["samples"] * 0}, **options)
    new = seen(model, samples)[..., SIDE // 2 :, :].mean()
    assert new > 0.9 * seen(model, free).mean() and new > 0.5
    assert trace.runs[-1].mmd2 < 0.01


def test_the_kept_part_says_which_references_suit(model):
    """Beside a kept part of one kind the new part is of that kind; without a mask both are drawn."""
    references = set_around(model, -2.0, 2.0)
    for level in (-2.0, 2.0):
        latent = kept_latent(model, level, lower_half())
        samples, _, _ = guided_draw(model, references, latent, strength=100.0, steps=8)
        of_images = seen(model, samples)[..., SIDE // 2 :, :].mean((1, 2, 3)) / level
        assert (of_images > 0.5).all()


def test_few_images_follow_references_that_suit(model):
    references = set_around(model, -2.0, 2.0)
    latent = kept_latent(model, 2.0, lower_half(), batch=3)
    samples, _, _ = guided_draw(model, references, latent, strength=100.0, steps=8)
    core = core_draw(model, latent, steps=8)
    moved = seen(model, samples - core)[..., SIDE // 2 :, :].mean((1, 2, 3))
    assert (moved > 0).all()


def test_a_mask_that_opens_everything_changes_nothing(model):
    references = set_around(model, 0.7)
    latent = kept_latent(model, 0.0, torch.ones(1, SIDE, SIDE))
    masked, _, report = guided_draw(model, references, latent)
    free, _, of_free = guided_draw(model, references, {"samples": latent["samples"]})
    assert torch.equal(masked, free) and report == of_free


def test_each_image_may_have_a_mask_of_its_own(model):
    """Every image keeps what its mask keeps, and what is drawn is guided."""
    references = set_around(model, 0.7)
    mask = lower_half(8)
    mask[1::2] = mask[1::2].flip(1)
    latent = kept_latent(model, -3.0, mask)
    samples, _, _ = guided_draw(model, references, latent, strength=100.0, steps=8)
    core = core_draw(model, latent, steps=8)
    drawn = mask[:, None].expand_as(core).bool()
    torch.testing.assert_close(samples[~drawn], core[~drawn])
    assert seen(model, samples)[drawn].mean() > 0.3 > seen(model, core)[drawn].mean()


def test_a_soft_mask_of_differential_diffusion_is_guided(model):
    references = set_around(model, 0.7)
    ramp = torch.linspace(0, 1, SIDE)[None, :, None].expand(1, SIDE, SIDE)
    latent = kept_latent(model, 0.0, ramp)
    soft = DifferentialDiffusion.execute(model).result[0]
    samples, _, _ = guided_draw(soft, references, latent, strength=100.0, steps=8)
    core = core_draw(soft, latent, steps=8)
    assert torch.isfinite(samples).all()
    lower, upper = slice(SIDE - 3, None), slice(0, 1)
    assert seen(model, samples - core)[..., lower, :].mean() > 0.4
    torch.testing.assert_close(samples[..., upper, :], core[..., upper, :])


@pytest.mark.parametrize("split", [{"micro_batch": 3}, {"group_size": 8}])
def test_parts_of_a_batch_keep_their_masks(split, model):
    references = set_around(model, 0.7)
    mask = lower_half(16)
    mask[8:] = mask[8:].flip(1)
    latent = kept_latent(model, -3.0, mask, batch=16)
    samples, _, _ = guided_draw(model, references, latent, strength=30.0, steps=8, **split)
    drawn = mask[:, None].expand_as(samples).bool()
    torch.testing.assert_close(samples[~drawn], latent["samples"][~drawn], rtol=1e-4, atol=1e-4)
    assert seen(model, samples)[drawn].mean() > 0.4


def test_the_open_part_is_cut_out_and_put_back():
    mask = torch.zeros(2, 4, 20, 16)
    mask[0, :, 12:15, 3:5] = 0.5
    mask[1, :, 13:19, 4:6] = 1
    part = open_part(mask)
    assert part.box == (slice(11, 19), slice(0, 8))  # at least 8 each way, within the image
    pictures = random(2, 4, 20, 16, seed=3)
    open_places = (mask > 0).any(0, keepdim=True)
    torch.testing.assert_close(part.whole(part.cut(pictures)), pictures * open_places)
    torch.testing.assert_close(part.kept(pictures), pictures * ~open_places)
    assert open_part(torch.ones(1, 4, 8, 8)) is None and open_part(torch.zeros(1, 4, 8, 8)) is None


def test_noise_alone_is_seen_at_kept_places():
    """So that what estimates lack is measured right where the rectangle holds kept places."""
    mask = (random(1, 1, 10, 10, seed=4) > 0).float().expand(1, 4, 10, 10)
    part = ComparedPart().within(mask)
    latents, noise = random(3, 4, 10, 10, seed=5), random(3, 4, 10, 10, seed=6)
    x = part.noisy(0.6 * latents + noise, latents, 0.6)
    torch.testing.assert_close(x - 0.6 * part.of(latents), part.cut(noise) + (1 - mask) * noise)
