"""Linear chains draw the same samples as the KSampler of ComfyUI."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.samplers import KSampler
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3
from mmd_pack.mmd_core.ddm import draw
from mmd_pack.nodes.ddm.training import engine
from mmd_pack.nodes.ddm.training.sampler_chain import linear_chain, schedule
from mmd_tests.support.ddm_runs import engine_of, trained
from mmd_tests.support.tiny_models import family_latent, family_prompt, gaussian_family

pytestmark = pytest.mark.comfy

KINDS = {"SD15": "karras", "SD20": "normal", "SD3": "simple"}  # epsilon, velocity, flow
STEPS, CFG, SEED, COUNT = 4, 2.0, 7110, 2
REFUSED = ("dpm_adaptive", "dpmpp_sde", "dpmpp_sde_gpu")  # and all of cfg_pp
# Core computes log(1 / σ − 1) near σ = 1 in float32.
ROUNDED = {("SD3", "exp_heun_2_x0"): 1e-3}


def samplers() -> list[str]:
    return list(comfy.samplers.KSampler.SAMPLERS)


def refused(name: str) -> bool:
    return "cfg_pp" in name or name in REFUSED


def light(family: str):
    """A MODEL of the family with a quick network that is not linear."""
    model = gaussian_family(family)
    network = model.model.diffusion_model
    name = "_forward" if hasattr(network, "_forward") else "forward"
    known = getattr(network, name)

    def answer(x, timesteps, context=None, *args, **options):
        phase = context.mean((1, 2)).reshape(-1, *[1] * (x.ndim - 1))
        return known(x, timesteps) + 0.3 * torch.sin(3 * x + 9 * phase)

    setattr(network, name, answer)
    return model


class Given:
    """A noise sampler that returns given noise in turn."""

    def __init__(self, noise):
        self.noise = iter(noise)

    def __call__(self, sigma, sigma_next):
        return next(self.noise)


def of_core(model, family: str, name: str, noise, drawn) -> torch.Tensor:
    """The samples of ComfyUI, in the model's units.

    Arguments:
        noise: The initial noise, with shape `(COUNT, *)`.
        drawn: The noise between calls.
    """
    positive, negative = family_prompt(family, 1), family_prompt(family, 2)
    empty = torch.zeros_like(noise)
    if len(drawn) == 0:
        found = comfy.sample.sample(
            model, noise, STEPS, CFG, name, KINDS[family], positive, negative, empty,
            disable_pbar=True, seed=SEED,
        )  # fmt: skip
    else:
        plain = comfy.samplers.sampler_object(name)
        options = {**plain.extra_options, "noise_sampler": Given(drawn)}
        sampler = comfy.samplers.KSAMPLER(plain.sampler_function, options, plain.inpaint_options)
        sigmas = schedule(model, name, KINDS[family], STEPS)
        found = comfy.sample.sample_custom(
            model, noise, CFG, sampler, sigmas, positive, negative, empty, disable_pbar=True,
            seed=SEED,
        )  # fmt: skip
    return model.model.process_latent_in(found)


@pytest.mark.parametrize("family", KINDS)
def test_every_sampler_draws_what_core_draws(family):
    model, random = light(family), torch.Generator().manual_seed(SEED)
    shape = family_latent(family, COUNT)["samples"].shape
    runs = {}
    for name in samplers():
        if not refused(name):
            chain = linear_chain(model, name, KINDS[family], STEPS)
            runs[name] = (
                chain,
                *torch.randn(1 + chain.draws, *shape, generator=random).split([1, chain.draws]),
            )
    found = {}

    def body(engine, max_denoise):
        def denoise(x, sigma, rows):
            return engine.estimate(x, sigma, [0] * len(rows))

        for name, (chain, noise, drawn) in runs.items():
            start = engine.scaled(noise[0], chain.sigmas[0], max_denoise)
            found[name] = draw(chain, denoise, start, drawn, COUNT, keep=False).samples

    engine_of(
        body, model, family, cfg=CFG, negative=family_prompt(family, 2), scheduler=KINDS[family]
    )
    assert len(found) >= 25
    for name, (_, noise, drawn) in runs.items():
        with torch.inference_mode():
            expected = of_core(model, family, name, noise[0], drawn)
        assert expected.std() > 0.1
        error = (found[name] - expected).abs().max() / expected.std()
        assert error < ROUNDED.get((family, name), 1e-4), name


@pytest.mark.parametrize("name", [name for name in samplers() if refused(name)])
def test_samplers_without_gradients_are_refused_before_the_model_is_copied(name, monkeypatch):
    monkeypatch.delattr(engine, "private_copy")
    with pytest.raises(ValueError) as error:
        trained(light("SD15"), "SD15", sampler_name=name)
    told = str(error.value)
    assert told.startswith(f"MMDTrainLoRA: {name} cannot be used in training, because ")
    assert told.endswith("set sampler_name to euler, ddim, dpmpp_2m, lcm or euler_ancestral")


def test_a_schedule_that_leaves_noise_is_reported(monkeypatch):
    kind = type(next(iter(comfy.samplers.SCHEDULER_HANDLERS.values())))
    noisy = kind(lambda sampling, steps: torch.linspace(9.0, 1.0, steps + 1))
    monkeypatch.setitem(comfy.samplers.SCHEDULER_HANDLERS, "noisy", noisy)
    monkeypatch.setattr(comfy.samplers.KSampler, "SCHEDULERS", ["noisy"])
    with pytest.raises(ValueError, match="^MMDTrainLoRA: the schedule noisy does not end at 0"):
        trained(light("SD15"), "SD15", scheduler="noisy")


@pytest.mark.parametrize("family", ["SD15", "SD3"])
def test_the_noise_schedule_on_the_model_counts(family):
    """ModelSamplingDiscrete and ModelSamplingSD3 change the noise levels of the chain."""
    plain = light(family)
    if family == "SD3":
        model = ModelSamplingSD3().patch(plain, 9.0)[0]
    else:
        model = ModelSamplingDiscrete().patch(plain, "eps", True)[0]
    before, after = (linear_chain(each, "euler", "normal", 4).sigmas for each in (plain, model))
    core = KSampler(model, 4, "cpu", "euler", "normal", 1.0, model.model_options).sigmas.tolist()
    assert list(after) == pytest.approx(core[:-1]) and core[-1] == 0
    assert after[1] > 1.05 * before[1]
