"""Schedules that rise, and samplers that call the model in ways of their own."""

import copy

import comfy.samplers
import pytest
import torch
from comfy.k_diffusion.sampling import sample_euler
from comfy_extras.nodes_custom_sampler import SamplerCustom
from mmd_pack.nodes.guidance.run.report import remarks
from mmd_tests.support.guided_runs import apply, make_references
from mmd_tests.support.tiny_models import empty_latent, prompt, random, tiny_model

pytestmark = pytest.mark.comfy

FALLING = [10.0, 4.0, 1.5, 0.5, 0.0]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def references():
    return make_references(8)


def custom(model, sigmas, latent=None, add_noise=True, sampler=sample_euler):
    """Core's SamplerCustom."""
    out, _ = SamplerCustom.execute(
        model, add_noise, 7, 2.0, prompt(1), prompt(2), comfy.samplers.KSAMPLER(sampler),
        torch.tensor(sigmas), latent or empty_latent(),
    ).result  # fmt: skip
    return out["samples"]


def shorts(trace):
    return [remark.short for remark in remarks(trace)]


def test_unsampling_is_not_guided_and_told(model, references, caplog):
    """FlipSigmas leads from an image to its noise; guidance would push it away from the set."""
    latent = {"samples": random(8, 4, 8, 8)}
    guided, trace = apply(model, references, strength=100.0)
    rising = [0.1, *FALLING[-2::-1]]
    noise = custom(guided, rising, latent, add_noise=False)
    assert torch.equal(noise, custom(model, rising, latent, add_noise=False))
    assert "noise rises" in shorts(trace) and "never acted" not in shorts(trace)
    assert "guidance does not act" in caplog.text
    assert not any(row.substeps for row in trace.rows)


def test_only_the_rise_of_a_restart_is_not_guided(model, references):
    guided, trace = apply(model, references, end_percent=1.0)
    custom(guided, [10.0, 4.0, 1.5, 6.0, 1.0, 0.5, 0.0])
    assert [bool(row.substeps) for row in trace.rows] == [True, True, False, True, True, False]


def calling(change):
    """Euler's method that changes the model options of every call."""

    def sampler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        def call(x, sigma, model_options, **options):
            return model(x, sigma, model_options=change(model_options), **options)

        call.inner_model = model.inner_model
        return sample_euler(call, x, sigmas, extra_args, callback, disable)

    return sampler


@pytest.mark.parametrize("change", [copy.deepcopy, copy.copy])
def test_a_sampler_that_copies_the_model_options_is_recorded(change, model, references):
    plain, plain_trace = apply(model, references, micro_batch=3)
    guided, trace = apply(model, references, micro_batch=3)
    samples = custom(guided, FALLING, sampler=calling(change))
    torch.testing.assert_close(samples, custom(plain, FALLING))
    assert len(trace.rows) == len(plain_trace.rows) and trace.acted


def test_a_sampler_that_drops_the_model_options_is_told(model, references):
    guided, trace = apply(model, references)
    custom(guided, FALLING, sampler=calling(lambda options: {}))
    assert shorts(trace)[0] == "no model call"
