"""One drawing in several runs: KSamplerAdvanced with leftover noise, and split sigmas."""

import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, SamplerCustom
from mmd_pack.mmd_core import References
from mmd_pack.mmd_core.guidance import guidance
from mmd_pack.nodes.guidance.mmd_plot import plot
from mmd_pack.nodes.guidance.run.report import remarks, run_report, summary
from mmd_tests.support.guided_runs import apply, make_references
from mmd_tests.support.tiny_models import empty_latent, family_prompt, gaussian_family, random

import nodes

pytestmark = pytest.mark.comfy

STEPS, SIDE = 8, 12
PROMPTS = family_prompt("SD15", 1), family_prompt("SD15", 2)
CUTS = {"two": (0, 3, STEPS), "three": (0, 2, 5, STEPS), "a step each": range(STEPS + 1)}


@pytest.fixture(scope="module")
def model():
    return gaussian_family("SD15")


@pytest.fixture
def references():
    return make_references(12)


def advanced(models, cuts, latent, sampler="euler"):
    """Core's KSamplerAdvanced, with a model for each stage."""
    for number, (model, start, end) in enumerate(zip(models, cuts, cuts[1:], strict=False)):
        (latent,) = nodes.KSamplerAdvanced().sample(
            model, "disable" if number else "enable", 7, STEPS, 1.0, sampler, "normal", *PROMPTS,
            latent, start, end, "enable" if end < STEPS else "disable",
        )  # fmt: skip
    return latent["samples"]


def split(models, cuts, latent, sampler="euler"):
    """Core's SamplerCustom with parts of one schedule."""
    sigmas = BasicScheduler.execute(models[0], "normal", STEPS, 1.0)[0]
    chosen = KSamplerSelect.execute(sampler)[0]
    for number, (model, start, end) in enumerate(zip(models, cuts, cuts[1:], strict=False)):
        part = sigmas[start : end + 1]
        latent = SamplerCustom.execute(
            model, number == 0, 7, 1.0, *PROMPTS, chosen, part, latent
        ).result[0]
    return latent["samples"]


def whole(model, references, latent):
    """The same drawing in one run: (samples, trace)."""
    guided, trace = apply(model, references, strength=100.0)
    return advanced([guided], (0, STEPS), latent), trace


@pytest.mark.parametrize("draw", [advanced, split])
@pytest.mark.parametrize("stages", CUTS)
@pytest.mark.parametrize("batch", [1, 5, 8])
def test_stages_are_one_drawing(batch, stages, draw, model, references):
    cuts, latent = CUTS[stages], empty_latent(batch)
    expected, one = whole(model, references, latent)
    guided, trace = apply(model, references, strength=100.0)
    samples = draw([guided] * (len(cuts) - 1), cuts, latent)
    torch.testing.assert_close(samples, expected, rtol=1e-3, atol=1e-3)
    assert trace.batch == batch and len(trace.drawings) == 1
    assert trace.distances == pytest.approx(one.distances, rel=1e-3)
    assert trace.finished[0].nearest == one.runs[0].nearest
    assert len(trace.rows) == len(one.rows) and len(trace.acted) == len(one.acted)
    # The report is about the drawing, whatever the number of its runs.
    theirs, ours = run_report(one, 12), run_report(trace, 12)
    assert ours.partition(" and moved")[0] == theirs.partition(" and moved")[0]


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_a_second_model_goes_on_towards_the_same_references(
    sampler, model, references, monkeypatch
):
    """As a base and a refiner, guided by two nodes; the noise of the second stage is another.

    Each node may have loaded the set by itself.
    """
    chosen, followed = [], []
    choose, follow = guidance.companions, guidance.followed

    def choosing(*given):
        chosen.append(choose(*given))
        return chosen[-1]

    def following(coupling, to, weights):
        followed.append(to.tolist())
        return follow(coupling, to, weights)

    monkeypatch.setattr(guidance, "companions", choosing)
    monkeypatch.setattr(guidance, "followed", following)
    refiner = gaussian_family("SD15")
    loaded = references, References(references.latents.clone()), references
    models = [
        apply(one, towards, strength=100.0)[0]
        for one, towards in zip((model, refiner, model), loaded, strict=True)
    ]
    advanced(models, CUTS["three"], empty_latent(5), sampler)
    assert len(chosen) == 1
    assert len(followed) > 3 and all(to == chosen[0].tolist() for to in followed)


def halves(batch):
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, SIDE // 2 :] = 1
    return mask


def masks_of_their_own(batch):
    mask = halves(batch).repeat(batch, 1, 1)
    mask[1::2] = mask[1::2].transpose(1, 2).clone()
    return mask


@pytest.mark.parametrize("masks", [halves, masks_of_their_own])
@pytest.mark.parametrize("batch", [3, 9])
def test_masked_stages_are_one_drawing(batch, masks, model):
    """A mask keeps the noise that the first stage left, and hides what is kept from the second."""
    inner, mask = model.model, masks(batch)
    of_two_kinds = torch.tensor([-1.0, 1.0]).repeat(12)[:, None, None, None]
    references = References(
        inner.process_latent_out(random(24, 4, SIDE, SIDE, seed=1) / 2 + of_two_kinds)
    )
    kept = inner.process_latent_out(random(batch, 4, SIDE, SIDE, seed=2) / 2 + 1)
    latent = {"samples": kept, "noise_mask": mask}
    new = mask[:, None].expand_as(kept).bool()

    def drawn(cuts, strength=100.0):
        guided, _ = apply(model, references, strength=strength)
        return advanced([guided] * (len(cuts) - 1), cuts, latent)[new]

    one, unguided = drawn((0, STEPS)), drawn((0, STEPS), 0.0)
    for cuts in (CUTS["two"], CUTS["three"]):
        assert (drawn(cuts) - one).norm() < 0.03 * (one - unguided).norm()


def test_regions_that_are_drawn_by_turns_are_parts_of_the_same_images(model, references):
    """As regional samplers do: at each step, a run for each region."""
    inner, batch = model.model, 3
    regions = halves(1), 1 - halves(1)
    references = References(inner.process_latent_out(random(24, 4, SIDE, SIDE, seed=1) / 2 + 0.7))

    def drawn(model):
        latent = {"samples": torch.zeros(batch, 4, SIDE, SIDE)}
        for step in range(STEPS):
            noise, leftover = (
                ("disable", "enable")[not step],
                ("disable", "enable")[step + 1 < STEPS],
            )
            parts = [
                nodes.KSamplerAdvanced().sample(
                    model, noise, 7, STEPS, 1.0, "euler", "normal", *PROMPTS,
                    {**latent, "noise_mask": region} if step else latent, step, step + 1, leftover,
                )[0]["samples"] * region[:, None]
                for region in regions
            ]  # fmt: skip
            latent = {"samples": sum(parts)}
        return inner.process_latent_in(latent["samples"])

    guided, trace = apply(model, references, strength=100.0)
    whole, _ = apply(model, references, strength=100.0)
    latent = {"samples": torch.zeros(batch, 4, SIDE, SIDE)}
    expected = inner.process_latent_in(advanced([whole], (0, STEPS), latent))
    assert (drawn(guided) - expected).norm() < 0.1 * expected.norm()
    assert trace.batch == batch and len(trace.drawings) == 1
    assert f"{batch} images drawn towards 24 references," in run_report(trace, 24)
    zero = apply(model, references, strength=0.0)[0]
    assert torch.equal(drawn(zero), drawn(model))


def test_what_is_left_with_noise_is_no_picture(model, references, caplog):
    guided, trace = apply(model, references, strength=100.0, start_percent=0.6, end_percent=1.0)
    with caplog.at_level("INFO"):
        half = advanced([guided], (0, 2), empty_latent())
    assert trace.batch == 0 and not trace.distances and "noise is left" in summary(trace)
    assert "8 images" in run_report(trace, 12) and "not judged" in run_report(trace, 12)
    # Guidance acts later: nothing is wrong yet.
    assert "start_percent" not in caplog.text
    assert plot([trace], [None]).width > 0
    advanced([guided] * 2, (0, 2, STEPS), {"samples": half})
    assert trace.batch == 8 and trace.acted
    assert "start_percent" not in "".join(remark.text for remark in remarks(trace))


def test_a_drawing_of_stages_is_one_line_in_the_plot(model, references):
    guided, trace = apply(model, references, strength=100.0)
    advanced([guided] * 3, CUTS["three"], empty_latent(8))
    advanced([guided], (0, STEPS), {"samples": random(8, 4, 8, 8)})
    assert [len(stages) for stages in trace.drawings] == [3, 1]
    assert plot([trace], [None]).width > 0
