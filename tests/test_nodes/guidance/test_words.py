"""What nodes say where little or nothing can be guided: the true cause, and its fix."""

import logging

import pytest
import torch
from comfy.samplers import KSampler
from mmd_pack.mmd_core import KernelConfig, References
from mmd_pack.nodes.guidance.run import guided_run
from mmd_pack.nodes.guidance.run.few_references import FEW_REFERENCES
from mmd_pack.nodes.guidance.run.report import remarks
from mmd_tests.support.guided_runs import (
    apply,
    core_draw,
    guided_draw,
    make_references,
    patched,
)
from mmd_tests.support.tiny_models import empty_latent, prompt, random, tiny_model

import nodes

pytestmark = pytest.mark.comfy
BY_PROMPT = KernelConfig(prompt_kernel="cosine")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def with_prompts():
    return make_references(prompts=prompt(3, batch=6)[0][1]["pooled_output"])


# ---- nothing can act


@pytest.mark.parametrize("batch", [8, 2])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2s_ancestral", "uni_pc"])
def test_a_single_step_is_told(sampler, batch, model):
    assert sampler in KSampler.SAMPLERS
    for end in (0.75, 1.0):
        report = guided_draw(
            model, make_references(), empty_latent(batch), sampler, 1, end_percent=end
        )[2]
        assert "Draw with 2 steps or more" in report and "start_percent" not in report


def stage(guided, latent, scheduler, start, end):
    """Some of 12 steps, as a later stage of a drawing."""
    nodes.KSamplerAdvanced().sample(
        guided, "disable", 7, 12, 2.0, "euler", scheduler, prompt(1), prompt(2), latent, start, end,
        "disable",
    )  # fmt: skip


def test_an_empty_window_is_told(model):
    guided, trace = apply(model, make_references(), start_percent=0.99, end_percent=1.0)
    stage(guided, {"samples": random(8, 4, 8, 8)}, "sgm_uniform", 0, 12)
    (remark,) = remarks(trace)
    assert not trace.acted and remark.text.startswith("Lower start_percent or raise end_percent")


def test_few_images_in_a_later_stage_are_told_what_helps(model):
    """They are guided in the first part only, whatever start_percent and end_percent are."""
    guided, trace = apply(model, make_references(), end_percent=1.0)
    stage(guided, {"samples": random(2, 4, 8, 8)}, "normal", 8, 12)
    (remark,) = remarks(trace)
    assert not trace.acted and remark.text.startswith("Draw 8 images or more together")


def test_nothing_to_draw_is_told(model):
    latent = {"samples": random(8, 4, 8, 8)}
    drawn, trace, report = guided_draw(model, make_references(), latent, denoise=0.0)
    assert torch.equal(drawn, core_draw(model, latent, denoise=0.0)) and not trace.runs
    assert report == "Nothing was drawn: denoise is 0, so latent_image stays as it is."


@pytest.mark.parametrize("denoise", [1e-300, 1e-7])
def test_a_schedule_that_would_never_be_made_is_refused(denoise, model):
    """Core would make one of steps / denoise steps."""
    with pytest.raises(
        ValueError, match="^MMDGuidedKSampler: denoise must be 0, or at least 4e-06"
    ):
        guided_draw(model, make_references(), denoise=denoise)


@pytest.mark.parametrize("strength", [20.0, 0.0])
def test_an_empty_positive_is_drawn_as_by_core(strength, model, caplog):
    options = {"kernel": BY_PROMPT, "strength": strength}
    with caplog.at_level(logging.WARNING):
        drawn, _, report = guided_draw(model, with_prompts(), positive=[], **options)
    expected = core_draw(model, positive=[])
    assert torch.equal(drawn, expected)
    assert torch.equal(core_draw(patched(model, with_prompts(), **options), positive=[]), expected)
    told = "Connect a prompt to positive"
    assert (told in report) == (told in caplog.text) == (strength > 0)
    if strength:
        assert report.startswith("Drawn without guidance.\n") and caplog.text.count(told) == 2


def test_an_empty_positive_is_guided_where_prompts_are_not_compared(model):
    drawn, trace, report = guided_draw(model, make_references(), positive=[])
    assert trace.acted and "Connect a prompt" not in report
    assert not torch.equal(drawn, core_draw(model, positive=[]))


def test_preserve_1_is_told(model):
    drawn, _, report = guided_draw(model, make_references(), preserve=1.0)
    torch.testing.assert_close(drawn, core_draw(model))
    assert "Lower preserve" in report and "Raise strength" not in report


# ---- few references


ONE, SOME = random(1, 4, 8, 8, seed=1), random(40, 4, 8, 8, seed=2)


@pytest.mark.parametrize(
    ("references", "options", "says"),
    [
        (ONE, {}, "Connect 32 references or more: here is only one, so all images go towards one"),
        (ONE, {"batch": 2}, "here is only one"),
        (SOME[:2], {}, "here are only 2, so all images go towards 2 pictures"),
        (SOME[:3], {}, "here are only 3"),
        (torch.cat([ONE] * 5), {}, "Connect 32 different references or more: all 5 are equal"),
        (torch.cat([ONE] * 300), {}, "all 300 are equal"),
        (torch.cat([SOME[:2], SOME[:1]]), {}, "of 3, only 2 differ"),
        (SOME[:4], {}, None),
        (SOME[:31], {"strength": 100.0}, "Lower strength to 30, or connect 32 references or more"),
        (SOME[:31], {"strength": 100.0, "mode": "keep_prompt"}, "copies of only 31 references"),
        (SOME[:31], {"strength": 99.0}, None),
        (SOME[:32], {"strength": 100.0}, None),
        (SOME[:31], {"strength": 100.0, "batch": 7}, None),  # each follows one, with 2 % of it
        (ONE, {"strength": 0.0}, None),
        (ONE, {"kernel": KernelConfig(feature_space="palette")}, None),  # no image can be a copy
        (ONE, {"kernel": KernelConfig(feature_space="patches")}, None),
        (ONE, {"mode": "official", "strength": 0.01}, None),
    ],
)
def test_few_references_are_told_before_the_first_call(
    references, options, says, model, caplog, monkeypatch
):
    shown, before = [], []
    monkeypatch.setattr(guided_run, "show_text", lambda text, node: shown.append(text))
    options = {**options, "strength": options.get("strength", 3.0), "steps": 2}
    latent = empty_latent(options.pop("batch", 8))

    def noting(apply_model, call):
        before.append((caplog.text, list(shown)))
        return apply_model(call["input"], call["timestep"], **call["c"])

    watched = model.clone()
    watched.set_model_unet_function_wrapper(noting)
    with caplog.at_level(logging.WARNING):
        trace = guided_draw(watched, References(references), latent, **options)[1]
    told = [problem.text for problem in trace.problems if problem.short == FEW_REFERENCES]
    if says is None:
        assert not told and "references or more" not in caplog.text
        return
    (text,) = told
    logged, texts = before[0]
    assert says in text and text in logged and texts == [f"⚠ {FEW_REFERENCES}"]
    assert caplog.text.count(text) == 1


def test_weights_of_0_count_for_nothing():
    references = References(SOME[:5], torch.tensor([1.0, 0, 0, 2, 0]))
    assert references.different(most=32) == 2


def test_a_single_reference_beside_base_images_has_no_style(model):
    base = References(random(4, 4, 8, 8, seed=5))
    report = guided_draw(model, References(ONE), base=base)[2]
    assert "at least 2, or disconnect base" in report and "Raise strength" not in report
    assert "at least 2" not in guided_draw(model, References(SOME[:2]), base=base)[2]


def test_copies_that_were_found_are_told_once(model):
    """What was feared before the run is then measured."""
    said = [
        remark.short
        for remark in remarks(
            guided_draw(
                model, make_references(3), steps=30, strength=300.0,
                kernel=KernelConfig("energy"), end_percent=1.0, preserve=0.0,
            )[1]
        )
    ]  # fmt: skip
    assert "possible copies" in said and FEW_REFERENCES not in said
