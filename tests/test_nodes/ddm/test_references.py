"""MMDMakeReferences and MMDPrompts: each image uses its own line, as in ComfyUI."""

import inspect
from functools import cache

import comfy.model_management as management
import comfy.sample
import comfy.utils
import pytest
import torch
from mmd_pack.nodes.ddm.mmd_make_references import MMDMakeReferences
from mmd_pack.nodes.ddm.mmd_prompts import MMDPrompts
from mmd_pack.nodes.host.particle_noise import ParticleNoise
from mmd_tests.support.conditionings import controlled, net, with_options
from mmd_tests.support.ddm_runs import QUICK, asked, denoised, own, plan_of, two_prompts
from mmd_tests.support.tiny_encoders import TinyCLIP, tiny_clip
from mmd_tests.support.tiny_models import (
    empty_latent,
    family_latent,
    family_prompt,
    prompt,
    random,
    tiny_model,
)

pytestmark = pytest.mark.comfy

clip_of = cache(tiny_clip)
STEPS, SEED = 3, 7160


def made(model=None, family=QUICK, positive=None, negative=None, latent=None, **changed):
    """The outputs of MMDMakeReferences, as a workflow would run it."""
    settings = {
        "count": 5, "steps": STEPS, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple",
        "seed": SEED,
        "micro_batch": 2,
    }  # fmt: skip
    with torch.inference_mode():
        return MMDMakeReferences.execute(
            own(family) if model is None else model,
            family_prompt(family, 1) if positive is None else positive,
            family_prompt(family, 2) if negative is None else negative,
            family_latent(family, 3) if latent is None else latent,
            **{**settings, **changed},
        ).result


def of_core(family: str, indices, positive, negative=None, seed: int = SEED):
    """The samples of ComfyUI's KSampler from the noise of these images."""
    empty = family_latent(family, len(indices))["samples"]
    negative = family_prompt(family, 2) if negative is None else negative
    with torch.inference_mode():
        return comfy.sample.sample(
            own(family), ParticleNoise(seed, indices)(empty), STEPS, 2.0, "euler", "simple",
            positive, negative,
            empty, disable_pbar=True, seed=0,
        )  # fmt: skip


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["SD3", "SD15", "WAN21_T2V"])
def test_it_draws_what_core_draws(family):
    refs, latents, text = made(family=family)
    expected = of_core(family, range(5), family_prompt(family, 1))
    assert (
        expected.std() > 0.1
        and latents["samples"].shape == family_latent(family, 5)["samples"].shape
    )
    close(latents["samples"], expected)
    assert torch.equal(refs.latents, latents["samples"]) and refs.latents.dtype == torch.float32
    assert torch.pdist(refs.latents.flatten(1)).min() > 0.1
    assert text == "5 references drawn with 3 steps of euler, simple, cfg 2, 1 prompt."
    assert refs.names[4] == "drawn 5"
    torch.testing.assert_close(
        refs.prompts, family_prompt(family, 1)[0][1]["pooled_output"].expand(5, -1)
    )


@pytest.mark.parametrize("micro_batch", [1, 5, 64])
def test_the_size_of_micro_batches_changes_nothing(micro_batch):
    """A larger count begins with the same images; other seeds give other images."""
    rows, _ = two_prompts()
    whole = made(positive=rows, negative=rows)[0].latents
    close(made(positive=rows, negative=rows, micro_batch=micro_batch)[0].latents, whole)
    if micro_batch == 1:
        close(made(positive=rows, negative=rows, count=2)[0].latents, whole[:2])
        assert (made(positive=rows, seed=SEED + 1)[0].latents - whole).abs().min() > 0


def test_prompts_in_turn_with_their_features():
    """Also for negative; training finds the prompt of each reference again."""
    rows, each = two_prompts()
    refs, _, text = made(positive=rows, negative=rows)
    for i in range(5):
        alone = each[i % 2]
        close(refs.latents[i : i + 1], of_core(QUICK, [i], alone, alone))
        assert torch.equal(refs.prompts[i : i + 1], alone[0][1]["pooled_output"])
    assert text.endswith("2 prompts.")
    plan = plan_of(positive=rows, refs=refs)
    torch.testing.assert_close(plan.prompt_features[torch.arange(5) % 2], refs.prompts)


def test_each_reference_keeps_its_hint_its_mask_and_its_picture():
    """For every size of micro-batches; as core's KSampler draws the whole batch."""

    def draw(model, positive, sizes=(1, 2, 5)):
        expected, *parts = (
            made(model, "SD15", positive, prompt(2), empty_latent(1), micro_batch=size)[0].latents
            for size in (64, *sizes)
        )
        for part in parts:
            close(part, expected)
        return expected

    model, editing = tiny_model(), tiny_model("SD15_instructpix2pix")
    masked = with_options(prompt(3), mask=random(5, 8, 8).abs())
    positive, _ = controlled(net(model), 3)
    found = draw(model, positive + masked)
    noise = ParticleNoise(SEED, range(5))(empty_latent(1)["samples"])
    with torch.inference_mode():
        expected = comfy.sample.sample(
            model, noise, STEPS, 2.0, "euler", "simple", positive, prompt(2),
            torch.zeros_like(noise), disable_pbar=True, seed=0,
        )  # fmt: skip
    close(draw(model, positive, ()), expected)
    assert (found - expected).abs().max() > 1e-3
    draw(editing, with_options(prompt(1), concat_latent_image=random(2, 4, 8, 8)), (2,))


def test_a_model_whose_images_see_each_other_is_refused():
    def shared(q, k, v, options):
        return q, k + k.mean(0, keepdim=True), v

    model = tiny_model().clone()
    model.set_model_attn1_patch(shared)
    with pytest.raises(ValueError, match="MMDMakeReferences: .* share their attention .* 5, or"):
        made(model, "SD15", prompt(1), prompt(2), empty_latent(1))


def test_the_empty_latent_may_be_of_another_model():
    """EmptyLatentImage has 4 channels; new versions also give the size in pixels."""
    latent = {"samples": torch.zeros(7, 4, 4, 4)}
    close(made(latent=latent)[0].latents, made()[0].latents)
    signature = inspect.signature(comfy.sample.fix_empty_latent_channels)
    if "downscale_ratio_spacial" in signature.parameters:
        latent = {"samples": torch.zeros(1, 4, 2, 2), "downscale_ratio_spacial": 16}
        close(made(latent=latent)[0].latents, made()[0].latents)


def test_noise_on_the_way_and_seeds_of_all_sizes():
    drawn = [
        made(sampler_name="euler_ancestral", scheduler="normal", seed=seed)[0].latents
        for seed in (0, 2**64 - 2)
    ]
    assert torch.pdist(torch.cat(drawn).flatten(1)).min() > 0.1


def test_an_interrupt_ends_it_within_a_micro_batch():
    def stop(number, denoised):
        if number == 4:  # the first step of the second part
            management.interrupt_current_processing(True)
        return denoised

    model, calls = asked(own(QUICK), stop)
    with pytest.raises(management.InterruptProcessingException):
        made(model)
    assert len(calls) == 4
    management.interrupt_current_processing(False)


def test_progress_counts_references(monkeypatch):
    shown = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, **kw: shown.append(args[:2])
    )
    made()
    values = [value for value, _ in shown]  # core leaves some out
    assert {total for _, total in shown} == {5} and values[0] == 2 and values[-1] == 5
    assert values == sorted(set(values)) and set(values) <= {2, 4, 5}


# ---- MMDPrompts


def prompts_of(text: str, clip=None):
    with torch.inference_mode():
        return MMDPrompts.execute(clip_of() if clip is None else clip, text).result


def encoded(text: str):
    with torch.inference_mode():
        return clip_of().encode_from_tokens_scheduled(clip_of().tokenize(text))


def test_one_row_for_each_line():
    conditioning, count = prompts_of("  a cat\n\n \t\na dog on a hill \r\nrain\n")
    ((tokens, options),) = conditioning
    assert count == 3 and tokens.shape == (3, 77, 16) and options["pooled_output"].shape == (3, 16)
    for row, line in enumerate(("a cat", "a dog on a hill", "rain")):
        ((alone, pooled),) = encoded(line)
        assert torch.equal(tokens[row], alone[0])
        assert torch.equal(options["pooled_output"][row], pooled["pooled_output"][0])


def loud(conditioning):
    """The conditioning, scaled so that it has an effect in the small network."""
    return [[100 * tokens, options] for tokens, options in conditioning]


def test_images_of_a_batch_follow_the_lines_in_turn():
    """With ComfyUI's KSampler, also for lines of different lengths."""
    lines = "a cat", "a dog " * 50, "rain"
    conditioning, _ = prompts_of("\n".join(lines))
    assert conditioning[0][0].shape == (3, 154, 16)
    x = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(SEED))
    found = denoised(own("SD15"), x, "SD15", positive=loud(conditioning))
    alone = [denoised(own("SD15"), x, "SD15", positive=loud(encoded(line))) for line in lines]
    assert (alone[0] - alone[2]).abs().amax((1, 2, 3)).min() > 1e-3
    close(found, torch.stack([alone[i % 3][i] for i in range(4)]))


@pytest.mark.parametrize("text", ["", "  \n\t\n"])
def test_empty_text_is_reported(text):
    with pytest.raises(ValueError, match="^MMDPrompts: text is empty: write one prompt per line"):
        prompts_of(text)


def test_a_checkpoint_without_text_encoder_is_reported():
    with pytest.raises(ValueError, match="^MMDPrompts: clip is missing: connect the text encoder"):
        MMDPrompts.execute(None, "a cat")


class Encoder(TinyCLIP):
    """A text encoder with one token per letter, and extra outputs."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def encode_from_tokens_scheduled(self, text):
        options = {name: make(len(text)) for name, make in self.options.items()}
        return [[torch.ones(1, len(text), 5) * len(text), options]]


def test_tokens_are_repeated_to_a_common_length():
    ((tokens, _),) = prompts_of("ab\nabc", Encoder())[0]
    assert tokens.shape == (2, 6, 5) and tokens[0].unique().item() == 2


@pytest.mark.parametrize(
    "clip, text, lengths", [
        (Encoder(), "abcdefg\nabcdefgh", "7, 8"),
        (Encoder(attention_mask=lambda n: torch.ones(1, n)), "ab\nabcd", "2, 4"),
        (Encoder(ids=lambda n: torch.ones(1, n)), "ab\nabcd", "2, 4"),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_stacked_are_reported(clip, text, lengths):
    with pytest.raises(
        ValueError,
        match=f"^MMDPrompts: the prompts are {lengths} tokens long, .* about equally long",
    ):
        prompts_of(text, clip)


def test_masks_of_equal_length_are_stacked():
    clip = Encoder(attention_mask=lambda n: torch.full((1, n), 0.5), guidance=lambda n: 3.5)
    ((_, options),) = prompts_of("ab\ncd", clip)[0]
    assert options["attention_mask"].shape == (2, 2) and options["guidance"] == 3.5
