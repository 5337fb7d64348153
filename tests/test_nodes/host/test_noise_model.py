"""What the σ of each noise model of core, and of other packs, means."""

import comfy.model_sampling as core
import pytest
import torch
from mmd_pack.mmd_core import NoiseModel
from mmd_pack.nodes.host.noise_model import noise_model
from mmd_tests.support.guided_runs import apply, core_draw, make_references
from mmd_tests.support.tiny_models import tiny_model

pytestmark = pytest.mark.comfy


class OfAnotherPack:
    """A flow model that is not derived from core's."""

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        return 3 * sigma * noise + (1 - sigma) * latent_image


class Inversion:
    """From images to noise, as packs for editing have it."""

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        return latent_image

    def calculate_input(self, sigma, noise):
        return noise

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_output

    def inverse_noise_scaling(self, sigma, latent):
        return latent


def made(kind, base=core.ModelSamplingDiscrete, **attributes):
    sampling = type("Sampling", (base, kind), {})()
    for name, value in attributes.items():
        setattr(sampling, name, value)
    return sampling


EDM, FLOW = core.ModelSamplingContinuousEDM, core.ModelSamplingDiscreteFlow
MODELS = {
    "eps": (made(core.EPS), NoiseModel()),
    "v": (made(core.V_PREDICTION), NoiseModel()),
    "x0": (made(core.X0), NoiseModel()),
    "EDM": (made(core.EDM, EDM, sigma_data=0.5), NoiseModel(sigma_data=0.5)),
    "cosmos": (made(core.COSMOS_RFLOW, EDM, sigma_data=0.5), NoiseModel(sigma_data=0.5)),
    "flow": (made(core.CONST, FLOW), NoiseModel(True)),
    "flux": (made(core.CONST, core.ModelSamplingFlux), NoiseModel(True)),
    "HiDream-O1": (made(core.CONST, FLOW, noise_scale=8.0), NoiseModel(True, scale=8.0)),
    "no noise": (made(core.CONST, FLOW, noise_scale=0.0), None),
    "another pack": (made(OfAnotherPack, FLOW), NoiseModel(True, scale=3.0)),
    "inversion": (made(Inversion), None),
}
for name in ("IMG_TO_IMG_FLOW", "IMG_TO_IMG_VELOCITY"):  # since later versions of ComfyUI
    if hasattr(core, name):
        MODELS[name] = made(getattr(core, name), FLOW), None


@pytest.mark.parametrize("name", MODELS)
def test_signal_and_noise_are_those_of_noise_scaling(name):
    sampling, expected = MODELS[name]
    if "noise_scale" in vars(sampling) and not hasattr(FLOW, "set_noise_scale"):
        pytest.skip("this ComfyUI has no noise_scale")
    assert noise_model(sampling) == expected
    for sigma in (0.2, 0.9) if expected else ():
        x0, n, level = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([sigma])
        noisy = expected.signal(sigma) * x0 + expected.deviation(sigma) * n
        torch.testing.assert_close(sampling.noise_scaling(level, n.clone(), x0), noisy)


def test_a_model_that_adds_no_noise_is_drawn_unguided_and_told(caplog):
    model = tiny_model()
    model.add_object_patch("model_sampling", made(Inversion))
    guided, trace = apply(model, make_references(8))
    assert torch.equal(core_draw(guided), core_draw(model))
    assert "not guided" in [remark.short for remark in trace.problems] and not trace.runs
    assert "maps an image to an image" in caplog.text
