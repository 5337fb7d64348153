"""MMDBaseImages: one image for each caption, as ComfyUI draws it alone."""

from functools import cache

import comfy.model_management as management
import comfy.sample
import comfy.utils
import pytest
import torch
from mmd_pack.mmd_core import References
from mmd_pack.nodes.host.particle_noise import ParticleNoise
from mmd_pack.nodes.host.prompt_rows import alike, as_rows
from mmd_pack.nodes.references.encoding.encode_captions import encode_captions
from mmd_pack.nodes.references.encoding.latent_cache import LatentCache
from mmd_pack.nodes.references.mmd_base_images import MMDBaseImages
from mmd_tests.support.ddm_runs import asked
from mmd_tests.support.tiny_encoders import tiny_clip
from mmd_tests.support.tiny_models import family_latent, random, tiny_family

pytestmark = pytest.mark.comfy

family_of = cache(tiny_family)
STEPS, SEED, PROMPT = 3, 77, "a hat"
LONG = "a dog " * 50  # twice as many tokens
CAPTIONS = ("a cat", LONG, "", "a cat", "rain", LONG, " ")


class LoudCLIP:
    """A text encoder of ComfyUI whose texts have an effect in small networks."""

    def __init__(self):
        self.clip, self.texts = tiny_clip(), []

    def tokenize(self, text):
        self.texts.append(text)
        return self.clip.tokenize(text)

    def encode_from_tokens_scheduled(self, tokens):
        ((found, options),) = self.clip.encode_from_tokens_scheduled(tokens)
        loud = {"pooled_output": 100 * options["pooled_output"]}
        return [[10_000 * found, {**options, **loud}]]


clip_of = cache(LoudCLIP)


def encoded(text):
    with torch.inference_mode():
        return clip_of().encode_from_tokens_scheduled(clip_of().tokenize(text))


def references_of(captions=CAPTIONS, shape=(4, 4, 4), **options):
    return References(random(len(captions), *shape), captions=captions, **options)


def based(refs=None, model=None, clip=None, **changed):
    """The outputs of MMDBaseImages, as a workflow would run it."""
    settings = {
        "prompt": PROMPT, "count": 0, "steps": STEPS, "cfg": 2.0, "sampler_name": "euler",
        "scheduler": "simple", "seed": SEED, "micro_batch": 2,
    }  # fmt: skip
    with torch.inference_mode():
        return MMDBaseImages.execute(
            model or family_of("SD15"),
            clip or clip_of(),
            references_of() if refs is None else refs,
            **{**settings, **changed},
        ).result


def of_core(text, number, family="SD15", negative="", seed=SEED):
    """The sample of ComfyUI's KSampler for one text, from the noise of one image."""
    empty = family_latent(family, 1)["samples"]
    with torch.inference_mode():
        return comfy.sample.sample(
            family_of(family), ParticleNoise(seed, [number])(empty), STEPS, 2.0, "euler", "simple",
            encoded(text), encoded(negative), empty, disable_pbar=True, seed=0,
        )  # fmt: skip


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["SD15", "SD3", "WAN21_T2V"])
def test_each_caption_is_drawn_as_core_draws_it_alone(family):
    """Also captions of other lengths, and with a video model, whose references have no frame."""
    channels = family_latent(family, 1)["samples"].shape[1]
    refs = references_of(shape=(channels, 4, 4))
    base, latents, _ = based(refs, family_of(family))
    assert base.latents.shape == refs.latents.shape and base.latents.dtype == torch.float32
    assert latents["samples"].shape == family_latent(family, len(CAPTIONS))["samples"].shape
    assert torch.equal(latents["samples"].reshape(base.latents.shape), base.latents)
    for number, caption in enumerate(CAPTIONS):
        found = latents["samples"][number : number + 1]
        close(found, of_core(caption.strip() or PROMPT, number, family))
        assert (found - of_core("an owl", number, family)).abs().max() > 0.05
    assert torch.pdist(base.latents.flatten(1)).min() > 0.1  # each has noise of its own


@pytest.mark.parametrize("micro_batch, sizes", [(1, [1] * 7), (2, [2, 2, 1, 2]), (64, [5, 2])])
def test_images_of_one_length_are_drawn_at_once(micro_batch, sizes):
    model, calls = asked(family_of("SD15"))
    close(based(model=model, micro_batch=micro_batch)[0].latents, based()[0].latents)
    assert calls == [size for size in sizes for _ in range(STEPS)]


def test_base_images_carry_what_belongs_to_their_references():
    refs = references_of(
        weights=torch.arange(1.0, 8.0), names=[f"{j}.png" for j in range(7)], size=(32, 32)
    )
    base, _, _ = based(refs)
    shown = [caption.strip() or PROMPT for caption in CAPTIONS]
    assert base.captions == tuple(shown) and base.names == refs.names and base.size == (32, 32)
    assert torch.equal(base.weights, refs.weights)
    with torch.inference_mode():
        assert torch.equal(base.prompts, encode_captions(clip_of(), shown, LatentCache(None)))


def test_a_count_takes_evenly_spaced_references_and_changes_no_image():
    whole = based(micro_batch=64)[0]
    base, _, text = based(count=3)
    assert base.captions == ("a cat", PROMPT, "rain")
    close(base.latents, whole.latents[[0, 2, 4]])
    assert text.startswith("3 base images drawn, for 3 of 7 references, with 3 steps of euler")
    assert len(based(count=8)[0]) == 7


def test_references_of_weight_0_are_not_drawn():
    base, _, _ = based(references_of(weights=torch.tensor([0.0, 1, 1, 0, 2, 0, 0])), count=3)
    assert base.captions == (LONG.strip(), PROMPT, "rain")
    torch.testing.assert_close(base.weights, torch.tensor([0.25, 0.25, 0.5]))


def test_the_negative_prompt():
    """Several ones are used in turn."""
    refs = references_of(CAPTIONS[:2])
    rows = as_rows([encoded("grey"), encoded("red")])
    drawn = based(refs, negative=rows)[0].latents
    close(drawn, torch.cat([of_core(CAPTIONS[0], 0, negative="grey"),
                            of_core(CAPTIONS[1], 1, negative="red")]))  # fmt: skip
    assert (drawn - based(refs)[0].latents).abs().amax((1, 2, 3)).min() > 0.05


def test_each_distinct_text_is_encoded_once():
    clip = LoudCLIP()
    based(clip=clip)
    assert sorted(clip.texts) == sorted({"", PROMPT, "a cat", LONG.strip(), "rain"})


def test_noise_on_the_way_and_other_seeds():
    drawn = [
        based(sampler_name="euler_ancestral", scheduler="normal", seed=seed)[0].latents
        for seed in (0, 2**64 - 3)
    ]
    assert torch.pdist(torch.cat(drawn).flatten(1)).min() > 0.1


def test_the_report_says_what_missing_captions_mean():
    assert len(based(references_of(("a", "b")))[2].splitlines()) == 1
    some = based()[2]
    assert "2 of these references have no caption" in some and "prompt 'a hat'" in some
    none = based(references_of(("",)), prompt="")[2]
    assert none.startswith("1 base image drawn, for 1 reference,")
    assert "1 of these references has no caption" in none and "prompt is empty" in none
    assert all("guidance follows the difference in things, too" in text for text in (some, none))


def test_progress_and_interrupt(monkeypatch):
    shown = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, **kw: shown.append(args[:2])
    )
    based()
    assert shown[-1] == (7, 7) and {total for _, total in shown} == {7}

    def stop(number, denoised):
        if number == 4:  # the first step of the second part
            management.interrupt_current_processing(True)
        return denoised

    model, calls = asked(family_of("SD15"), stop)
    with pytest.raises(management.InterruptProcessingException):
        based(model=model)
    assert len(calls) == 4
    management.interrupt_current_processing(False)


def refused(match, refs=None, clip=True):
    model, calls = asked(family_of("SD15"))
    with pytest.raises(ValueError, match=match) as caught:
        MMDBaseImages.execute(
            model, clip_of() if clip else None, refs or references_of(), prompt="", count=0,
            steps=1, cfg=1.0, sampler_name="euler", scheduler="simple", seed=0, micro_batch=1,
        )  # fmt: skip
    assert str(caught.value).startswith("MMDBaseImages: ") and not calls


def test_errors_come_before_anything_is_drawn():
    refused("clip is missing: connect the text encoder", clip=False)
    refused("references: the references have 16 latent channels", references_of(shape=(16, 4, 4)))


def entry(length=3, **options):
    return [[torch.zeros(1, length, 5), options]]


@pytest.mark.parametrize(
    "a, b, same",
    [
        (entry(), entry(), True),
        (entry(), entry(4), False),
        (entry(pooled_output=torch.zeros(1, 2)), entry(pooled_output=torch.ones(1, 2)), True),
        (entry(pooled_output=torch.zeros(1, 2)), entry(pooled_output=None), False),
        (entry(pooled_output=None), entry(pooled_output=None), True),
        (entry(guidance=3.5), entry(guidance=3.5), True),
        (entry(guidance=3.5), entry(guidance=4.0), False),
        (entry(ids=torch.zeros(3)), entry(ids=torch.zeros(3)), False),  # not one row per prompt
        (entry(attention_mask=torch.ones(1, 3)), entry(attention_mask=torch.ones(1, 3)), False),
        (entry(), entry(other=1), False),
        (entry() * 2, entry() * 2, False),
    ],
)
def test_which_prompts_are_drawn_at_once(a, b, same):
    assert alike(a, b) == alike(b, a) == same
