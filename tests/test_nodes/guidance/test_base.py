"""Guidance by the contrast of references and base images, through the nodes of a real ComfyUI."""

import logging
from dataclasses import replace
from functools import cache

import pytest
import torch
from mmd_pack.mmd_core import GuidanceConfig, KernelConfig, References
from mmd_pack.nodes.guidance.run.make_guidance import partners
from mmd_pack.nodes.guidance.run.report import run_report
from mmd_pack.nodes.guidance.run.trace import Trace
from mmd_pack.nodes.references.mmd_base_images import MMDBaseImages
from mmd_tests.support.guided_runs import core_draw, guided_draw, patched
from mmd_tests.support.tiny_encoders import tiny_clip
from mmd_tests.support.tiny_models import empty_latent, family_latent, prompt, random, tiny_family

pytestmark = pytest.mark.comfy

family_of = cache(tiny_family)
SIDE, COUNT = 4, 12


def latent_of(batch=8, **more):
    return {**empty_latent(batch, side=SIDE), **more}


@cache
def base_images(seed=1) -> References:
    """What the model draws for captions, from MMDBaseImages."""
    refs = References(random(COUNT, 4, SIDE, SIDE), captions=["a cat", "rain"] * (COUNT // 2))
    with torch.inference_mode():
        return MMDBaseImages.execute(
            family_of("SD15"), tiny_clip(), refs, prompt="", count=0, steps=4, cfg=2.0,
            sampler_name="euler", scheduler="normal", seed=seed, micro_batch=COUNT,
        ).result[0]  # fmt: skip


def style():
    """The shift of every reference: more of channel 1, less of channel 2."""
    return torch.tensor([0.0, 1, -1, 0])[:, None, None] * 4


@cache
def references() -> References:
    """Images of the model from other noise, in a style of their own."""
    drawn = base_images(seed=2)
    return replace(drawn, latents=drawn.latents + style())


def drawn(latent=None, refs=None, base=None, family="SD15", **options):
    latent = latent or latent_of()
    base = base_images() if base is None else base
    with torch.inference_mode():
        return guided_draw(family_of(family), refs or references(), latent, base=base, **options)


def unguided(latent=None):
    with torch.inference_mode():
        return core_draw(family_of("SD15"), latent or latent_of())


def test_images_take_the_style_and_nothing_else():
    """Their move is along the shift, in which references and base images differ."""
    move = drawn()[0] - unguided()
    along = (move * style()).flatten(1).sum(1) / style().expand(4, SIDE, SIDE).norm()
    assert (along > 0.2 * style().expand(4, SIDE, SIDE).norm()).all()
    assert (along / move.flatten(1).norm(dim=1) > 0.8).all()


def test_the_patch_does_the_same():
    with torch.inference_mode():
        guided = patched(family_of("SD15"), references(), base=base_images())
        assert torch.equal(core_draw(guided, latent_of()), drawn()[0])


@pytest.mark.parametrize("mode", ["flow", "keep_prompt"])
def test_an_image_is_the_same_in_every_batch(mode):
    ((tokens, options),) = prompt(1)
    loud = [[1000 * tokens, options]]  # a prompt with an effect in a small network
    settings = {"mode": mode, "steps": 6, "positive": loud}
    whole, trace, _ = drawn(**settings)
    assert (whole - unguided()).abs().max() > 0.5 and trace.acted[0].by_prompt < 10
    one_by_one, _, report = drawn(**settings, group_size=1)
    torch.testing.assert_close(one_by_one, whole, rtol=1e-4, atol=1e-4)
    alone = drawn(latent_of(1, batch_index=[5]), **settings)[0]
    torch.testing.assert_close(alone, whole[5:6], rtol=1e-4, atol=1e-4)
    assert "8 groups" in report


@pytest.mark.parametrize("batch", [1, 8])
def test_the_report_names_the_contrast_and_asks_for_no_larger_batch(batch, caplog):
    with caplog.at_level(logging.INFO, "mmd_guidance"):
        _, trace, report = drawn(latent_of(batch))
    sentence = "Guidance followed the contrast with 12 base images: what differs between these and"
    assert report.count(sentence) == 1 and ", 12 references, 12 base images, mode" in caplog.text
    assert trace.base == 12 and not trace.problems
    for text in (report, caplog.text):
        assert "followed one reference" not in text and "or more together" not in text
    without = guided_draw(family_of("SD15"), references(), latent_of(batch))[2]
    assert "base image" not in without
    assert ("followed one reference" in without) == (batch == 1)


def test_the_report_says_when_there_is_no_style_to_follow():
    same = base_images()
    samples, _, report = drawn(refs=same, base=same)
    torch.testing.assert_close(samples, unguided(), rtol=0, atol=1e-3)
    assert "Disconnect base" in report
    assert "Disconnect base" not in drawn()[2]


def test_base_images_are_partners_of_the_references_of_their_names():
    names = ("a.png", "b.png", "c.png", "b.png")
    assert partners(names, ("c.png", "b.png", "x.png", "a.png")).tolist() == [2, -1, -1, 0]


def test_the_report_says_what_remembered_images_do():
    _, trace, _ = drawn()
    remembered = replace(trace, remembered=3)
    assert "3 remembered images count in MMD² only" in run_report(remembered, 12)
    assert "as drawn together with them" in run_report(replace(remembered, base=0), 12)


def test_strength_0_is_bit_identical_to_core_ksampler():
    samples, trace, report = drawn(strength=0.0)
    assert torch.equal(samples, unguided()) and "contrast" not in report and not trace.acted


def test_nothing_is_said_of_a_contrast_that_never_acted():
    assert "contrast" not in run_report(Trace(GuidanceConfig(), base=3), 12)


def test_prompts_choose_references_and_base_images():
    """Each image follows the contrast of the captions that are like its prompt."""
    clip, texts = tiny_clip(), ("a cat", "rain")
    with torch.inference_mode():
        each = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in texts]
    tokens = torch.cat([found for found, _ in each])
    pooled = torch.cat([options["pooled_output"] for _, options in each])
    signs = torch.tensor([1.0, -1.0] * (COUNT // 2))[:, None, None, None]
    refs = replace(references(), latents=base_images(seed=2).latents + signs * style())
    kernel = KernelConfig(prompt_kernel="rbf", prompt_bandwidth=0.1)
    positive = [[tokens, {"pooled_output": pooled}]]
    samples, _, _ = drawn(refs=refs, kernel=kernel, positive=positive)
    with torch.inference_mode():
        plain = core_draw(family_of("SD15"), latent_of(), positive=positive)
    along = ((samples - plain) * style()).flatten(1).sum(1)
    assert (along[0::2] > 1).all() and (along[1::2] < -1).all()


def test_a_video_model_takes_base_images_with_and_without_a_frame():
    refs = References(random(6, 16, SIDE, SIDE, seed=1) + 1)
    base = References(random(5, 16, SIDE, SIDE, seed=2))
    framed = replace(base, latents=base.latents.unsqueeze(2))
    latent = family_latent("WAN21_T2V", 2)
    samples = [drawn(latent, refs, each, "WAN21_T2V")[0] for each in (base, framed)]
    assert samples[0].shape == latent["samples"].shape and torch.equal(*samples)
    with torch.inference_mode():
        assert not torch.equal(core_draw(family_of("WAN21_T2V"), latent), samples[0])


# ---- bad input: one sentence that names node, input and fix, before sampling starts


def other(shape=(4, SIDE, SIDE), **options):
    return References(random(3, *shape), **options)


@pytest.mark.parametrize(
    "base, options, words",
    [
        (other((4, 8, 6)), {}, "another size than the references: their latents are 6×8, .* 4×4"),
        (other((16, 4, 4)), {}, "images of base and the references come from different VAEs"),
        (other(vae="b"), {"refs": other(vae="a")}, "different VAEs. Connect MMDBaseImages to base"),
        (other(), {"mode": "paper"}, "mode paper does not use base images: disconnect base"),
        (
            other(),
            {"kernel": KernelConfig(prompt_kernel="cosine"), "refs": other(prompts=torch.ones(3, 16))},
            "base images carry none: make them with MMDBaseImages",
        ),
        (
            other(prompts=torch.ones(3, 5)),
            {"kernel": KernelConfig(prompt_kernel="cosine"), "refs": other(prompts=torch.ones(3, 16))},
            "captions of base have 5 features, the prompts 16.* clip of the checkpoint",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(base, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        drawn(base=base, positive=prompt(1), **options)
    message = str(caught.value)
    assert message.startswith("MMDGuidedKSampler: ") and "\n" not in message


def test_base_images_that_do_not_fit_are_accepted_at_strength_0():
    assert torch.equal(drawn(base=other((4, 8, 6)), strength=0.0)[0], unguided())
