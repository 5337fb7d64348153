"""The guided sampler in a real ComfyUI: what must not change, and what must."""

import gc
import logging
import weakref

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from mmd_pack.mmd_core import GuidanceConfig, KernelConfig, References, mmd2
from mmd_pack.mmd_core.comparison.noise import cfg_pp_carry, euler_carry, euler_cfg_pp_carry
from mmd_pack.nodes.guidance.mmd_kernel import MMDKernel
from mmd_pack.nodes.guidance.run import guided_run
from mmd_pack.nodes.guidance.run.compared_part import ComparedPart
from mmd_pack.nodes.guidance.run.make_guidance import carry_of, make_guidance, make_schedule
from mmd_pack.nodes.guidance.run.request import Request
from mmd_pack.nodes.host.noise_model import noise_model
from mmd_pack.nodes.host.prompts import batch_features, entry_feature
from mmd_tests.support.guided_runs import SETTINGS, core_draw, guided_draw, make_references, patched
from mmd_tests.support.tiny_models import empty_latent, prompt, tiny_model

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def references():
    return make_references()


def test_guidance_changes_the_picture_and_repeats_exactly(model, references):
    first, trace, report = guided_draw(model, references)
    second, _, _ = guided_draw(model, references)
    assert torch.equal(first, second)
    assert not torch.allclose(first, core_draw(model))
    assert torch.isfinite(first).all() and trace.acted and "MMD²" in report


def test_guided_pictures_come_closer_to_the_references(model, references):
    """In the space of the model, by the unbiased MMD²."""
    y = references.latents
    flat = (y - y.mean(0)).flatten(1)
    kernel = KernelConfig().resolve(flat @ flat.T, flat.shape[1])
    unguided = mmd2(core_draw(model), y, kernel, unbiased=True)
    guided = mmd2(guided_draw(model, references)[0], y, kernel, unbiased=True)
    assert guided < unguided / 2


def test_sampler_node_is_the_patch_and_core_ksampler(model, references):
    guided, _, _ = guided_draw(model, references)
    assert torch.equal(guided, core_draw(patched(model, references)))


def test_strength_0_is_bit_identical_to_core_ksampler(model, references):
    for sampler in ("euler", "euler_ancestral"):
        expected = core_draw(model, sampler=sampler)
        drawn, trace, report = guided_draw(model, references, sampler=sampler, strength=0.0)
        assert torch.equal(drawn, expected) and "Strength is 0" in report
        assert not trace.acted and len(trace.rows) == 4
        assert torch.equal(
            core_draw(patched(model, references, strength=0.0), sampler=sampler), expected
        )


def test_the_upstream_model_is_untouched_and_bypass_leaves_no_trace(model, references):
    before = core_draw(model)
    options, wrappers = repr(model.model_options), repr(model.wrappers)
    guided_draw(model, references)
    core_draw(patched(model, references))
    assert (repr(model.model_options), repr(model.wrappers)) == (options, wrappers)
    assert torch.equal(core_draw(model), before)


def test_no_run_state_outlives_a_run(model, references, monkeypatch):
    alive = weakref.WeakSet()
    original = guided_run.GuidedRun.__init__

    def counted(self, *args):
        alive.add(self)
        original(self, *args)

    monkeypatch.setattr(guided_run.GuidedRun, "__init__", counted)
    guided_model = patched(model, references)
    core_draw(guided_model)
    gc.collect()
    assert len(alive) == 0


def test_interrupt_then_rerun_gives_the_uninterrupted_result(model, references):
    guided_model = patched(model, references)
    expected = core_draw(guided_model)
    latent = empty_latent()["samples"]

    def stop(step, *_):
        if step == 1:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        comfy.sample.sample(
            guided_model, comfy.sample.prepare_noise(latent, 7), 4, 2.0, "euler", "normal",
            prompt(1), prompt(2), latent, callback=stop, seed=7,
        )  # fmt: skip
    assert torch.equal(core_draw(guided_model), expected)


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_every_core_sampler_runs(sampler, model, references):
    samples, trace, _ = guided_draw(model, references, sampler=sampler)
    assert torch.isfinite(samples).all() and trace.acted


@pytest.mark.parametrize("mode, strength", [("paper", 100.0), ("official", 0.02)])
def test_published_modes_run(mode, strength, model, references):
    samples, trace, _ = guided_draw(model, references, mode=mode, strength=strength)
    assert torch.isfinite(samples).all() and not torch.equal(samples, core_draw(model))
    assert all(row.mmd2_after < row.mmd2_before for row in trace.acted)


def test_pixels_outside_a_mask_are_kept(model, references):
    latent = {"samples": torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))}
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    samples, _, _ = guided_draw(model, references, {**latent, "noise_mask": mask})
    torch.testing.assert_close(
        samples[..., 4:, :], latent["samples"][..., 4:, :], rtol=1e-4, atol=1e-5
    )
    unguided = core_draw(model, {**latent, "noise_mask": mask})
    assert not torch.allclose(samples[..., :4, :], unguided[..., :4, :])


def test_partial_denoise_and_advanced_windows_run(model, references):
    latent = {"samples": torch.ones(4, 4, 8, 8)}
    partly, _, _ = guided_draw(model, references, latent, denoise=0.5)
    assert torch.isfinite(partly).all()
    first = core_draw(patched(model, references), latent, steps=6, last_step=3, disable_noise=False)
    rest = core_draw(
        patched(model, references), {"samples": first}, steps=6, start_step=3, disable_noise=True
    )
    assert torch.isfinite(rest).all()


def test_a_window_without_a_step_says_that_nothing_happened(model, references):
    samples, _, report = guided_draw(model, references, steps=1)
    assert torch.equal(samples, core_draw(model, steps=1))
    assert "acts in every step but the last" in report


def test_images_beyond_the_kernels_reach_are_reported(model):
    kernel = KernelConfig(bandwidth="fixed", bandwidth_value=0.1)
    _, _, report = guided_draw(model, make_references(), kernel=kernel)
    assert "cannot tell which way to go" in report and "energy" in report


def test_two_guidances_can_be_chained(model, references):
    other = make_references(shape=(4, 8, 8), weights=torch.arange(1.0, 7.0))
    both = core_draw(patched(patched(model, references), other))
    assert not torch.allclose(both, core_draw(patched(model, references)))


def test_groups_draw_every_image_with_its_own_noise(model, references):
    """Without guidance to speak of, groups draw what the whole batch would, noise and all."""
    tiny = 1e-12
    latent = {**empty_latent(5), "batch_index": [0, 1, 2, 3, 4]}
    whole, _, _ = guided_draw(model, references, latent, strength=tiny)
    grouped, trace, _ = guided_draw(model, references, latent, strength=tiny, group_size=2)
    assert len(trace.runs) == 3
    torch.testing.assert_close(grouped, whole, rtol=1e-3, atol=1e-3)


def test_groups_of_stochastic_samplers_differ_in_their_noise(model, references):
    latent = {**empty_latent(4), "batch_index": [0, 0, 0, 0]}
    samples, _, _ = guided_draw(
        model, references, latent, sampler="euler_ancestral", strength=1e-12, group_size=2
    )
    assert not torch.allclose(samples[:2], samples[2:])


def test_later_groups_know_the_earlier_ones(model, references):
    grouped, _, report = guided_draw(model, references, empty_latent(16), group_size=8)
    alone, _, _ = guided_draw(model, references, empty_latent(8))
    torch.testing.assert_close(grouped[:8], alone, rtol=1e-3, atol=1e-3)
    second = {**empty_latent(8), "batch_index": list(range(8, 16))}
    forgetful, _, _ = guided_draw(model, references, second)
    assert not torch.allclose(grouped[8:], forgetful, rtol=1e-2, atol=1e-2)
    assert "2 groups" in report


def test_groups_slice_prompts_and_masks(model, references):
    prompts = prompt(3, batch=4)
    mask = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(4)).round()
    latent = {**empty_latent(4), "noise_mask": mask, "batch_index": [0, 1, 2, 3]}
    whole, _, _ = guided_draw(model, references, latent, positive=prompts, strength=1e-12)
    grouped, _, _ = guided_draw(
        model, references, latent, positive=prompts, strength=1e-12, group_size=2
    )
    torch.testing.assert_close(grouped, whole, rtol=1e-3, atol=1e-3)


def prompted_references():
    """References with the captions 0 and 1 of `prompt(3, batch=2)`, and distant latents."""
    (tokens, options), *_ = prompt(3, batch=2)
    features = entry_feature({"cross_attn": tokens, **options})
    noise = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    shift = torch.tensor([-6.0, 6.0]).repeat_interleave(4)[:, None, None, None]
    return References(noise + shift, prompts=features.repeat_interleave(4, 0))


def test_each_sample_follows_the_references_of_its_own_prompt(model):
    kernel = KernelConfig(prompt_kernel="rbf")
    samples, _, _ = guided_draw(
        model, prompted_references(), positive=prompt(3, batch=2), kernel=kernel
    )
    means = samples.flatten(1).mean(1)
    assert (means[0::2] < means[1::2] - 2).all()


def test_scheduled_and_combined_prompts_are_averaged_while_active():
    a, b = ({"pooled_output": torch.full((1, 3), v)} for v in (1.0, 3.0))
    early = {**b, "timestep_end": 2.0}
    assert torch.equal(batch_features([a, early], 2, sigma=5.0), torch.full((2, 3), 2.0))
    assert torch.equal(batch_features([a, early], 2, sigma=1.0), torch.full((2, 3), 1.0))
    weighted = batch_features([a, {**b, "strength": 3.0}], 1, sigma=1.0)
    assert torch.equal(weighted, torch.full((1, 3), 2.5))
    assert batch_features([early], 2, sigma=1.0) is None


def test_prompts_without_pooled_output_are_the_mean_of_unmasked_tokens():
    tokens = torch.arange(6.0).reshape(1, 3, 2)
    assert torch.equal(entry_feature({"cross_attn": tokens}), torch.tensor([[2.0, 3.0]]))
    masked = {"cross_attn": tokens, "attention_mask": torch.tensor([[1, 1, 0]])}
    assert torch.equal(entry_feature(masked), torch.tensor([[1.0, 2.0]]))


def test_sdxl_goes_through_the_same_nodes(references):
    samples, trace, _ = guided_draw(tiny_model("SDXL"), references)
    assert torch.isfinite(samples).all() and trace.acted


# ---- bad input: one sentence that names node, input and fix, before sampling starts


def refused(match, model, references, **options):
    with pytest.raises(ValueError, match=match) as caught:
        guided_draw(model, references, **options)
    message = str(caught.value)
    assert message.startswith("MMDGuidedKSampler: ") and "\n" not in message


def test_references_of_another_size_are_refused(model):
    refused("target of EncodeReferenceLatents", model, make_references(shape=(4, 8, 10)))


def test_references_of_other_channels_are_refused(model):
    refused("channels", model, make_references(shape=(16, 8, 8)))


def test_a_reversed_window_is_refused(model, references):
    refused("start_percent", model, references, start_percent=0.9, end_percent=0.1)


def test_a_prompt_kernel_without_captions_is_refused(model, references):
    kernel = KernelConfig(prompt_kernel="cosine")
    refused("captions and clip", model, references, kernel=kernel)


def test_captions_of_another_text_encoder_are_refused(model):
    kernel = KernelConfig(prompt_kernel="cosine")
    refused("text encoder", model, make_references(prompts=torch.ones(6, 5)), kernel=kernel)


def test_nan_references_are_refused():
    latents = torch.zeros(3, 4, 8, 8)
    latents[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="cat.png"):
        References(latents, names=("dog.png", "cat.png", "owl.png"))


def test_a_bandwidth_of_0_is_refused():
    with pytest.raises(ValueError, match="MMDKernel: bandwidth_value"):
        MMDKernel.execute("rbf", "fixed", 0.0, "1", "none", 0.0)
    with pytest.raises(ValueError, match="MMDKernel: multipliers"):
        MMDKernel.execute("rbf", "median", 1.0, "one, two", "none", 0.0)


@pytest.mark.parametrize("batch, group_size", [(1, 0), (4, 0), (4, 1), (9, 8)])
def test_a_few_images_are_drawn_and_reported(batch, group_size, model, references, caplog):
    with caplog.at_level(logging.WARNING):
        samples, _, report = guided_draw(
            model, references, empty_latent(batch), group_size=group_size
        )
    assert torch.isfinite(samples).all()
    assert "each followed one reference" in report and "micro_batch" in report
    assert "each followed one reference" in caplog.text


def test_8_images_are_matched_together(model, references, caplog):
    with caplog.at_level(logging.WARNING):
        _, _, report = guided_draw(model, references, empty_latent(8))
    assert "followed" not in report and not caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_latents_of_half_precision_are_drawn(dtype, model, references):
    samples, _, _ = guided_draw(
        model, references, {"samples": torch.zeros(4, 4, 8, 8, dtype=dtype)}
    )
    assert torch.isfinite(samples).all()


@pytest.mark.parametrize("kind", ["cfg", "dual", "dual nested"])
def test_a_change_of_the_estimate_arrives_unscaled_under_every_guider(
    kind, model, references, monkeypatch
):
    """+1 on x̂0 at the only step is +1 on the result, in the space of the model.

    Hooks inside CFG would make it 3.
    """
    monkeypatch.setattr(guided_run.GuidedRun, "denoised", lambda self, x0, *_: x0 + 1)
    latent, sigmas = empty_latent()["samples"], torch.tensor([5.0, 0.0])
    results = []
    for candidate in (model, patched(model, references)):
        if kind == "cfg":
            guider = comfy.samplers.CFGGuider(candidate)
            guider.set_conds(prompt(1), prompt(2))
            guider.set_cfg(3.0)
        else:
            guider = Guider_DualCFG(candidate)
            guider.set_conds(prompt(1), prompt(3), prompt(2))
            guider.set_cfg(2.0, 3.0, nested=kind == "dual nested")
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
        sampler = comfy.samplers.sampler_object("euler")
        results.append(guider.sample(noise, latent, sampler, sigmas, seed=0))
    shift = (results[1] - results[0]) * model.model.latent_format.scale_factor
    torch.testing.assert_close(shift, torch.ones_like(shift), rtol=1e-4, atol=1e-4)


def test_images_guide_a_model_of_video(references):
    """References of single images serve a model whose latents have a time axis of one frame."""
    inner, config = tiny_model().model, patched_config()
    noise = torch.zeros(4, 4, 1, 8, 8)
    sampler = comfy.samplers.sampler_object("euler")
    model_noise = noise_model(inner.model_sampling)
    schedule = make_schedule(
        inner, model_noise, config, sampler, torch.tensor([5.0, 1.0, 0.0]), False
    )
    request = Request("test", references, config)
    guidance = make_guidance(
        inner, request, schedule, ComparedPart(), noise, memory=None, budget=torch.inf
    )
    guided = guidance(noise, noise + 1, 5.0)
    assert guided.shape == noise.shape and not torch.equal(guided, noise)


def patched_config():
    return GuidanceConfig(**SETTINGS)


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_cfg_pp_samplers_are_known(sampler):
    """By the functions that core draws with, which carry their names."""
    expected = euler_carry
    if "cfg_pp" in sampler:
        expected = euler_cfg_pp_carry if sampler.startswith("euler") else cfg_pp_carry
    assert carry_of(comfy.samplers.sampler_object(sampler)) is expected
    assert carry_of(object()) is euler_carry
