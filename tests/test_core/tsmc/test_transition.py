"""The base chain: against the samplers' formulas, and against ComfyUI's euler_ancestral itself."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmd_pack.mmd_core import NoiseModel
from mmd_pack.mmd_core.tsmc import propose, transitions
from mmd_tests.studies.steering.worlds import F64, even, karras

PAIRS = [(14.6, 9.0), (2.0, 1.9), (0.7, 0.1), (0.1, 0.03)]
FLOW_PAIRS = [(1.0, 0.95), (0.8, 0.4), (0.5, 0.45), (0.2, 0.02)]
ETAS = [1.0, 0.7, 0.2]


def step_of(sigma, after, flow, eta=1.0, scale=1.0):
    return transitions([sigma, after, 0.0], NoiseModel(flow, scale=scale), eta)[0]


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("sigma, after", PAIRS)
def test_formulas_of_noise_added(sigma, after, eta):
    """get_ancestral_step and one Euler step of k-diffusion, written out."""
    up = min(after, eta * math.sqrt(after**2 * (sigma**2 - after**2) / sigma**2))
    down = math.sqrt(after**2 - up**2)
    x, x0 = 1.3, -0.4
    step = step_of(sigma, after, False, eta)
    assert step.mean(x, x0) == pytest.approx(x + (x - x0) / sigma * (down - sigma), rel=1e-12)
    assert step.noise == pytest.approx(up, rel=1e-12)


@pytest.mark.parametrize("sigma, after", PAIRS)
def test_eta_1_is_the_posterior_of_ddpm(sigma, after):
    """Of x' = x0 + σ' n' and x = x' + √(σ² − σ'²) n, two Gaussians multiplied."""
    precision = 1 / after**2 + 1 / (sigma**2 - after**2)
    x, x0 = 1.3, -0.4
    mean = (x0 / after**2 + x / (sigma**2 - after**2)) / precision
    step = step_of(sigma, after, False)
    assert step.noise == pytest.approx(precision**-0.5, rel=1e-12)
    assert step.mean(x, x0) == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("sigma, after", FLOW_PAIRS)
def test_formulas_of_flow_matching(sigma, after, eta):
    """sample_euler_ancestral_RF, written out."""
    down = after * (1 + (after / sigma - 1) * eta)
    ratio = (1 - after) / (1 - down)
    x, x0 = 1.3, -0.4
    step = step_of(sigma, after, True, eta)
    assert step.mean(x, x0) == pytest.approx(
        ratio * (down / sigma * x + (1 - down / sigma) * x0), rel=1e-12
    )
    assert step.noise == pytest.approx(math.sqrt(after**2 - down**2 * ratio**2), rel=1e-9)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("flow", [False, True])
def test_a_step_keeps_the_marginal_of_one_clean_sample(flow, eta):
    """x = α x0 + σ n becomes x' = α' x0 + σ' n'."""
    for sigma, after in FLOW_PAIRS if flow else PAIRS:
        step = step_of(sigma, after, flow, eta)
        signal, signal_after = (1 - sigma, 1 - after) if flow else (1, 1)
        assert step.of_x * signal + step.of_x0 == pytest.approx(signal_after, rel=1e-12)
        assert (step.of_x * sigma) ** 2 + step.noise**2 == pytest.approx(after**2, rel=1e-9)


@pytest.mark.parametrize("flow", [False, True])
def test_the_last_step_ends_at_the_estimate(flow):
    last = transitions(even() if flow else karras(), NoiseModel(flow))[-1]
    assert (last.of_x, last.of_x0, last.noise, last.sigma_next) == (0, 1, 0, 0)


@pytest.mark.parametrize("noise", [NoiseModel(), NoiseModel(True), NoiseModel(sigma_data=0.5)])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_slope_and_share_settled_are_those_of_clean_samples(noise, scale):
    """Of the variance that the model assumes."""
    noise, v = noise._replace(scale=scale), noise.sigma_data**2
    for sigma in (0.9, 0.5, 0.1):
        signal = 1 - sigma if noise.flow_matching else 1
        step = transitions([sigma, 0.05, 0.0], noise)[0]
        variance = signal**2 * v + (scale * sigma) ** 2  # of x
        kept = signal * v / variance  # x̂0 = kept · x for x0 ~ N(0, v)
        assert step.slope == pytest.approx(kept)
        assert step.certainty == pytest.approx(kept**2 * variance / v)  # that of x̂0, by v


@pytest.mark.parametrize("flow", [False, True])
def test_the_scale_of_the_noise_multiplies_what_is_drawn_and_not_the_mean(flow):
    once, twice = step_of(0.8, 0.4, flow), step_of(0.8, 0.4, flow, scale=2.0)
    assert twice.noise == 2 * once.noise and twice.mean(1.3, -0.4) == once.mean(1.3, -0.4)


@pytest.mark.parametrize(
    "sigmas",
    [[1.0, 0.5], [1.0, 0.0], [0.5, 1.0, 0.0], [1.0, 1.0, 0.0], [], [1.0, 0.5, 0.1], [1.0, math.nan, 0.0]],
)  # fmt: skip
def test_a_schedule_that_is_none(sigmas):
    with pytest.raises(ValueError, match="fall from step to step and end at 0"):
        transitions(sigmas)


@pytest.mark.parametrize("eta", [0.0, -1.0, 1.1, math.nan])
def test_eta_out_of_range(eta):
    with pytest.raises(ValueError, match="eta"):
        transitions(karras(), eta=eta)


def comfy_model(denoise, flow):
    """What ComfyUI's samplers ask of a model."""
    import comfy.model_sampling

    sampling = comfy.model_sampling.CONST() if flow else comfy.model_sampling.EPS()
    patcher = SimpleNamespace(get_model_object=lambda name: sampling)
    inner = SimpleNamespace(
        inner_model=SimpleNamespace(model_sampling=sampling), model_patcher=patcher
    )

    class Model:
        inner_model = inner

        def __call__(self, x, sigma):
            return denoise(x, sigma[0])

    return Model()


@pytest.mark.comfy
@pytest.mark.parametrize("scale", [1.0, 0.8])
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("flow", [False, True])
def test_as_euler_ancestral_of_comfyui(flow, eta, scale, rng):
    from comfy.k_diffusion.sampling import sample_euler_ancestral

    sigmas = torch.tensor(even() if flow else karras(), dtype=F64)
    x = sigmas[0] * torch.randn(3, 4, 6, 5, generator=rng, dtype=F64)
    drawn = [torch.randn(x.shape, generator=rng, dtype=F64) for _ in sigmas]

    def denoise(x, sigma):
        return torch.sin(x / (1 + sigma))

    theirs = iter(drawn)
    expected = sample_euler_ancestral(
        comfy_model(denoise, flow), x, sigmas, {}, disable=True, eta=eta, s_noise=scale,
        noise_sampler=lambda sigma, after: next(theirs),
    )  # fmt: skip
    steps = transitions(sigmas.tolist(), NoiseModel(flow, scale=scale), eta)
    paths = propose(lambda x, i: denoise(x, sigmas[i]), x, steps, lambda i: drawn[i])
    torch.testing.assert_close(paths.z, expected, rtol=1e-10, atol=1e-10)
