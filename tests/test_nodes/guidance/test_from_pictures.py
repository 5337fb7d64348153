"""Runs of few images that start from finished pictures: hires passes, detailers, img2img."""

import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, SamplerCustom
from mmd_pack.mmd_core import References
from mmd_pack.mmd_core.guidance import guidance
from mmd_tests.support.guided_runs import apply
from mmd_tests.support.tiny_models import family_latent, family_prompt, gaussian_family, random

import nodes

pytestmark = pytest.mark.comfy

STEPS, NEAR = 8, [5, 2, 7, 0, 11, 3, 9]


@pytest.fixture(params=["SD15", "Flux", "WAN21_T2V"])
def family(request):
    return request.param


@pytest.fixture
def model(family):
    return gaussian_family(family)


@pytest.fixture
def references(model, family):
    shape = family_latent(family, 12, 8)["samples"].shape
    return References(model.model.process_latent_out(random(*shape, seed=1) + 0.5))


@pytest.fixture
def followed(monkeypatch):
    """The companions of every guided call."""
    calls, follow = [], guidance.followed

    def following(coupling, to, weights):
        calls.append(to.tolist())
        return follow(coupling, to, weights)

    monkeypatch.setattr(guidance, "followed", following)
    return calls


def pictures(references, batch):
    """Pictures as a first pass may have drawn them: near to references."""
    latents = references.latents[NEAR[:batch]]
    return latents + 0.3 * latents.std() * random(*latents.shape, seed=3)


def prompts(family):
    return family_prompt(family, 1), family_prompt(family, 2)


def ksampler(model, family, latent, denoise=0.5):
    return nodes.KSampler().sample(
        model, 7, STEPS, 1.0, "euler", "normal", *prompts(family), latent, denoise
    )[0]["samples"]


def advanced(model, family, latent):
    return nodes.KSamplerAdvanced().sample(
        model, "enable", 7, STEPS, 1.0, "euler_ancestral", "normal", *prompts(family), latent,
        STEPS // 2, STEPS, "disable",
    )[0]["samples"]  # fmt: skip


def custom(model, family, latent):
    sigmas = BasicScheduler.execute(model, "normal", STEPS, 0.4)[0]
    euler = KSamplerSelect.execute("euler")[0]
    given = (model, True, 7, 1.0, *prompts(family), euler, sigmas, latent)
    return SamplerCustom.execute(*given).result[0]["samples"]


@pytest.mark.parametrize("draw", [ksampler, advanced, custom])
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_pictures_go_on_towards_the_nearest_references(
    batch, draw, family, model, references, followed
):
    guided, _ = apply(model, references, strength=100.0)
    draw(guided, family, {"samples": pictures(references, batch)})
    assert followed and all(to == NEAR[:batch] for to in followed)


def test_larger_pictures_do_as_well(family, model, references, followed):
    small = pictures(references, 3)
    shape = (*small.shape[2:-2], 16, 12)
    large = torch.nn.functional.interpolate(small, shape)
    guided, _ = apply(model, references, strength=100.0, other_sizes="resize")
    ksampler(guided, family, {"samples": large})
    assert followed and all(to == NEAR[:3] for to in followed)


def test_the_new_part_goes_on_as_well(family, model, references, followed):
    """The kept part is that of the picture, too."""
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:] = 1
    guided, _ = apply(model, references, strength=100.0)
    ksampler(guided, family, {"samples": pictures(references, 3), "noise_mask": mask})
    assert followed and all(to == NEAR[:3] for to in followed)


def test_where_noise_hides_the_pictures_it_decides(family, model, references, followed):
    for samples in (pictures(references, 4), torch.zeros_like(references.latents[:4])):
        guided, _ = apply(model, references, strength=100.0)
        followed.clear()
        ksampler(guided, family, {"samples": samples}, 1.0)
        assert followed and all(to == followed[0] != NEAR[:4] for to in followed)


def test_the_same_picture_several_times_follows_several_references(
    model, family, references, followed
):
    guided, _ = apply(model, references, strength=100.0)
    ksampler(guided, family, {"samples": pictures(references, 1).repeat_interleave(3, 0)})
    assert len(set(followed[0])) == 3 and NEAR[0] in followed[0]
