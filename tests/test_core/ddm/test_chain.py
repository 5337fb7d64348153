"""Samplers as linear chains: coefficients against closed forms, and errors if not linear."""

import math

import pytest
import torch
from mmd_pack.mmd_core.ddm import LinearChain, draw
from mmd_tests.support.ddm_samplers import (
    F64,
    SAMPLERS,
    SIGMAS,
    Network,
    ancestral,
    euler,
    heun,
    multistep,
)


def check(chain, sigmas, start, estimates, noise=None):
    """All coefficients, row by row: u_0 … u_{K−1} and the sample."""
    assert chain.sigmas == pytest.approx(sigmas, rel=1e-12)
    assert len(chain) == len(sigmas)
    noise = [[] for _ in start] if noise is None else noise
    assert chain.draws == len(noise[0])
    for found, wanted in (
        (chain.of_start, start), (chain.of_estimates, estimates), (chain.of_noise, noise),
    ):  # fmt: skip
        wanted = torch.tensor(wanted, dtype=F64).reshape(found.shape)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_euler():
    """u_k = (σ_k/σ_0) x_0 + Σ_{l<k} σ_k (1/σ_{l+1} − 1/σ_l) D_l; the sample is the last D."""
    chain = LinearChain.of(euler(), 10)
    s, calls = SIGMAS, 4
    estimates = [
        [s[k] * (1 / s[i + 1] - 1 / s[i]) if i < k else 0 for i in range(calls)]
        for k in range(calls)
    ]
    check(chain, s[:-1], [s[k] / s[0] for k in range(5)], [*estimates, [0, 0, 0, 1]])


def test_heun():
    """One step of two calls, written out, and an Euler step to 0."""
    s, t = 5.0, 2.0
    a = t / s
    estimates = [
        [0, 0, 0],
        [1 - a, 0, 0],
        [(t - s) / 2 * ((1 - a) / t - 1 / s), (s - t) / (2 * t), 0],
        [0, 0, 1],
    ]
    check(LinearChain.of(heun((s, t, 0.0)), 9), (s, t, t), [1, a, a, 0], estimates)


def test_multistep():
    """σ = 8, 2, 1: steps of log 4 and log 2, so that D' = 5/4 D_1 − 1/4 D_0."""
    estimates = [[0, 0, 0], [0.75, 0, 0], [0.5 * 0.75 - 0.5 * 0.25, 0.5 * 1.25, 0], [0, 0, 1]]
    chain = LinearChain.of(multistep((8.0, 2.0, 1.0, 0.0)), 9)
    check(chain, (8, 2, 1), [1, 1 / 4, 1 / 8, 0], estimates)


def test_ancestral():
    """σ = 2, 1: σ_up = √¾, σ_down = ½."""
    chain = LinearChain.of(ancestral((2.0, 1.0, 0.0)), 9)
    up = math.sqrt(0.75)
    check(chain, (2, 1), [1, 0.25, 0], [[0, 0], [0.75, 0], [0, 1]], [[0], [up], [0]])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_model_of_one_image_stays_at_its_noise_levels(name):
    """D ≡ c: u_k = c + σ_k z with z standard normal, whatever the sampler."""
    chain = LinearChain.of(SAMPLERS[name](), 20)
    means = chain.of_start + chain.of_estimates.sum(1)
    variances = (chain.of_start * SIGMAS[0]) ** 2 + chain.of_noise.square().sum(1)
    for k, sigma in enumerate((*chain.sigmas, 0.0)):
        if name == "wasteful" and sigma in (0.1, 1.0):  # the extra calls of this sampler
            continue
        assert means[k].item() == pytest.approx(1, abs=1e-12)
        assert variances[k].item() == pytest.approx(sigma**2, abs=1e-12)
    assert (chain.of_estimates.triu() == 0)[: len(chain)].all()


@pytest.mark.parametrize("dtype, exact", [(F64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_replays_the_sampler_on_any_network(name, dtype, exact, rng):
    """The samples, and each input of the network."""
    sampler = SAMPLERS[name]()
    chain = LinearChain.of(sampler, 20)
    for seed in range(3):
        network = Network(dtype=dtype, seed=seed)
        start = 7 * torch.randn(5, 3, generator=rng, dtype=dtype)
        noise = torch.randn(chain.draws, 5, 3, generator=rng, dtype=dtype)
        asked, drawn = [], iter(noise)

        def model(x, sigma, network=network, asked=asked):
            asked.append((x, sigma))
            return network(x, sigma)

        with torch.no_grad():
            expected = sampler(model, start, lambda *_, drawn=drawn: next(drawn))
        assert next(drawn, None) is None
        for size in (2, 5):
            found = draw(chain, lambda x, s, rows, n=network: n(x, s), start, noise, size)
            torch.testing.assert_close(found.samples, expected, rtol=exact, atol=exact)
            torch.testing.assert_close(
                found.states, torch.stack([x for x, _ in asked]), rtol=exact, atol=exact
            )
        assert chain.sigmas == tuple(sigma for _, sigma in asked)
        assert not found.samples.requires_grad and not found.states.requires_grad
    bare = draw(chain, lambda x, s, rows: network(x, s), start, noise, 2, keep=False)
    kept = draw(chain, lambda x, s, rows: network(x, s), start, noise, 2)
    assert torch.equal(bare.samples, kept.samples)
    assert bare.states.numel() == 0


def test_samplers_in_float32():
    """Samplers that compute in float32 for inputs of any dtype."""

    def single(model, x, noise_sampler):
        return euler()(model, x.float(), noise_sampler).float()

    with pytest.raises(ValueError, match="not linear"):
        LinearChain.of(single, 10)  # 1e-9 is not reached
    found, exact = LinearChain.of(single, 10, torch.float32), LinearChain.of(euler(), 10)
    assert found.of_start.dtype == found.of_estimates.dtype == F64
    torch.testing.assert_close(found.of_estimates, exact.of_estimates, rtol=1e-5, atol=1e-5)


def test_noise_levels_may_be_tensors_for_each_sample():
    def run(model, x, noise_sampler):
        s = torch.tensor(SIGMAS, dtype=F64)
        for sigma, after in zip(s, s[1:], strict=False):
            x = x + (x - model(x, sigma * x.new_ones(len(x)))) / sigma * (after - sigma)
        return x

    chain = LinearChain.of(run, 10)
    torch.testing.assert_close(chain.of_estimates, LinearChain.of(euler(), 10).of_estimates)
    assert chain.sigmas == SIGMAS[:-1]


def test_samplers_that_write_into_what_they_are_given():
    def run(model, x, noise_sampler):
        for sigma, after in zip(SIGMAS, SIGMAS[1:], strict=False):
            found = model(x, sigma)
            x.mul_(after / sigma).add_(found.mul_(1 - after / sigma))
        return x

    chain = LinearChain.of(run, 10)
    torch.testing.assert_close(chain.of_estimates, LinearChain.of(euler(), 10).of_estimates)


def then(change):
    """Euler with `change` applied to the sample."""
    return lambda model, x, noise_sampler: change(euler()(model, x, noise_sampler))


def asks(change):
    """Euler with `change` applied to the inputs of the model."""

    def run(model, x, noise_sampler):
        return euler()(lambda x, sigma: model(change(x), sigma), x, noise_sampler)

    return run


def adaptive(model, x, noise_sampler):
    return model(x, 1.0 if x.max() <= 1 else 2.0)


def hesitating(model, x, noise_sampler):
    return model(x, 1.0) if x.max() <= 1 else model(model(x, 1.0), 1.0)


def with_luck(model, x, noise_sampler):
    return model(x, 1.0) if x.max() > 1 else model(x, 1.0) + 0 * noise_sampler(1.0, 0.0)


def guided(model, x, noise_sampler):
    """The step grows with the distance between two estimates."""
    one, other = model(x, 2.0), model(x, 1.0)
    return one + (one - other) * (one - other).norm()


@pytest.mark.parametrize(
    "sampler",
    [
        then(lambda x: x.clamp(-0.5, 0.5)),
        then(lambda x: x / x.std()),
        then(lambda x: x + 0.01),
        then(lambda x: x + 1e-3 * torch.randn_like(x)),
        asks(lambda x: x.clamp(-0.5, 0.5)),
        asks(lambda x: x + 0.01),
        asks(lambda x: x + 1e-3 * torch.randn_like(x)),
        adaptive,
        hesitating,
        with_luck,
        guided,
    ],
)
def test_what_is_not_linear_is_refused(sampler):
    with pytest.raises(ValueError, match="not linear"):
        LinearChain.of(sampler, 40)


def endless(model, x, noise_sampler):
    while x.abs().max() > 1e-3:
        x = x - 0.4 * (x - model(x, 1.0) / 10)
    return x


def noisy(model, x, noise_sampler):
    for _ in range(100):
        x = x + noise_sampler(1.0, 0.5)
    return model(x, 1.0)


def test_too_many_questions_are_refused():
    assert len(LinearChain.of(euler(), 4)) == 4
    for sampler, most in ((euler(), 3), (endless, 50), (noisy, 50)):
        with pytest.raises(ValueError, match="too often"):
            LinearChain.of(sampler, most)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda model, x, noise_sampler: model.inner_model.model_sampling.sigma_max * x,
        lambda model, x, noise_sampler: model(x, 1.0, {"uncond": True}),
        lambda model, x, noise_sampler: model(x, 1.0).uncond,
        lambda model, x, noise_sampler: model(x, 1.0).reshape(2, 7),
        lambda model, x, noise_sampler: model(torch.cat([x, x]), 1.0),
        lambda model, x, noise_sampler: (model(x, 1.0), None)[1],
    ],
)
def test_what_needs_more_than_estimates_is_refused(sampler):
    with pytest.raises(ValueError, match="more than x̂0"):
        LinearChain.of(sampler, 10)


def with_noise(*intervals):
    def run(model, x, noise_sampler):
        for interval in intervals:
            x = model(x, 1.0) + noise_sampler(*(torch.tensor(end) for end in interval))
        return x

    return run


@pytest.mark.parametrize(
    "intervals",
    [
        [(4.0, 2.0), (4.0, 1.0)],  # as in dpmpp_sde: to the middle of a step, then over all of it
        [(4.0, 2.0), (2.0, 1.0), (3.0, 0.5)],
        [(1.0, 2.0), (4.0, 1.5)],
        [(4.0, 2.0), (4.0, 2.0)],
    ],
)
def test_noise_that_is_used_twice_is_refused(intervals):
    """A Brownian path gives dependent noise for intervals that overlap."""
    with pytest.raises(ValueError, match="depends on what it drew before"):
        LinearChain.of(with_noise(*intervals), 10)


def test_noise_of_intervals_that_meet_is_independent():
    chain = LinearChain.of(with_noise((4.0, 2.0), (1.0, 2.0), (1.0, 0.0)), 10)
    assert chain.draws == 3
