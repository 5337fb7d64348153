"""SMC: every potential estimates the same Z."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from mmd_pack.mmd_core.tsmc import effective, log_mean_exp, propose, smc, systematic
from mmd_tests.studies.steering import closed_form
from mmd_tests.studies.steering.methods import importance, resampled, twisted
from mmd_tests.studies.steering.worlds import F64, gaussian

REPLICATES, N = 100, 32


def relative(found, truth):
    """Mean and standard error of Ẑ / Z."""
    ratios = (found.log_z - truth.log_z).exp()
    return ratios.mean().item(), ratios.std().item() / math.sqrt(len(ratios))


@pytest.mark.parametrize("theta", [0.0, 1.0])
@pytest.mark.parametrize("potential", ["none", "settled", "raw"])
@pytest.mark.parametrize("flow", [False, True])
def test_any_potential_estimates_the_same_z(flow, potential, theta):
    """Acceptance 10, and of FK steering's potential too: Ẑ is unbiased."""
    world = gaussian(flow=flow, scale=1.0)
    found = resampled(world, 6900, REPLICATES, N, theta, potential)
    mean, error = relative(found, closed_form.truth(world))
    assert error < 0.05
    assert abs(mean - 1) < 4 * error


@pytest.mark.parametrize("flow", [False, True])
def test_the_twisted_diffusion_sampler_of_the_studies_estimates_it_too(flow):
    """And knows nearly all where its twist is the optimal one but for a constant: a linear reward, one Gaussian."""
    world = gaussian(flow=flow, scale=1.0)
    truth, found = closed_form.truth(world), twisted(world, 6900, REPLICATES, N)
    mean, error = relative(found, truth)
    assert error < 0.05
    assert abs(mean - 1) < 4 * error
    assert found.scores == N * len(world.steps)
    assert (found.log_z - truth.log_z).std() < 0.7 * importance(
        world, 6900, REPLICATES, N
    ).log_z.std()


def swarm_of(world, n=N, potential=None, twist=None, theta=None, tilt=True, seed=5, denoise=None):
    rng = torch.Generator().manual_seed(seed)
    start = world.start(n, rng)
    noise = lambda i: torch.randn(n, world.dim, generator=rng, dtype=F64)  # noqa: E731
    swarm = smc(
        denoise or world.denoise, start, world.steps, noise, lambda i: 0.5, potential, twist, theta
    )
    return swarm.rewarded(world.tilt(swarm.z)) if tilt else swarm


def test_without_potential_it_is_importance_sampling():
    world = gaussian()
    swarm = swarm_of(world)
    assert swarm.resampled == 0
    assert torch.equal(swarm.ancestors, torch.arange(N))
    assert swarm.log_z == pytest.approx(importance(world, 5, 1, N).log_z[0].item(), rel=1e-9)


def test_a_twist_without_resampling_weighs_paths_as_their_sums_do():
    world = gaussian(scale=0.3)
    twist, theta = world.twist(2), torch.tensor([0.5, 0.9], dtype=F64)
    swarm = swarm_of(world, twist=twist, theta=theta)
    rng = torch.Generator().manual_seed(5)
    start = world.start(N, rng)
    noise = lambda i: torch.randn(N, world.dim, generator=rng, dtype=F64)  # noqa: E731
    paths = propose(world.denoise, start, world.steps, noise, twist, theta)
    own = paths.h @ theta - 0.5 * torch.einsum("p,npq,q->n", theta, paths.H, theta)
    assert swarm.resampled == 0
    torch.testing.assert_close(swarm.z, paths.z)
    torch.testing.assert_close(swarm.log_weights, world.tilt(paths.z) - own, rtol=1e-9, atol=1e-9)


# --- sequential Monte Carlo once more: numbers alone, by none of our functions ----------------------


def levels(world):
    return [step.sigma for step in world.steps] + [0.0]


def log_mean(log_w):
    most = log_w.max()
    return most + np.log(np.exp(log_w - most).mean())


def combed(weights, u):
    """Systematic resampling by going along the weights."""
    chosen, j, passed = [], 0, weights[0]
    for k in range(len(weights)):
        while passed <= (k + u) / len(weights):
            j += 1
            passed += weights[j]
        chosen.append(j)
    return chosen


def by_hand(world, start, noises, uniforms, potential, theta):
    """log Ẑ, log weights, samples, and how often it resampled; of one Gaussian with a linear reward."""
    m, v, a = (
        world.prior.means[0].numpy(),
        world.prior.variance,
        world.reward.a.numpy() * world.scale,
    )
    x, n, log_z, resampled = start.copy(), len(start), 0.0, 0
    log_w, last = np.zeros(n), np.zeros(n)
    for i, (sigma, after) in enumerate(pairwise(levels(world))):
        x0 = (v * x + sigma**2 * m) / (v + sigma**2)
        if i and potential != "none":
            new = x0 @ a / (1 + sigma**2 if potential == "settled" else 1)
            log_w, last = log_w + new - last, new
        weights = np.exp(log_w - log_w.max())
        weights /= weights.sum()
        if 1 / np.square(weights).sum() < n / 2:
            log_z += log_mean(log_w)
            chosen = combed(weights, uniforms[i])
            x, x0, last, log_w = x[chosen], x0[chosen], last[chosen], np.zeros(n)
            resampled += 1
        s = after * math.sqrt(1 - (after / sigma) ** 2)
        mean = x0 + (x - x0) * (after / sigma) ** 2
        u = s * theta * a / (1 + sigma**2)
        if after:
            log_w = log_w - noises[i] @ u - u @ u / 2
        x = mean + s * (noises[i] + u)
    log_w = log_w + x @ a - last
    return log_z + log_mean(log_w), log_w, x, resampled


@pytest.mark.parametrize("theta", [0.0, 0.6, 1.4])
@pytest.mark.parametrize("potential", ["none", "settled", "raw"])
def test_a_few_lines_of_numpy_find_the_same_to_rounding(potential, theta):
    """log Ẑ, weights and samples of the same noise and the same random numbers of resampling."""
    world, rng, often = gaussian(scale=3.0), np.random.default_rng(3), 0
    shares = {"settled": lambda i: world.steps[i].certainty, "raw": lambda i: 1.0}.get(potential)
    of = shares and (lambda x0, i: shares(i) * world.tilt(x0))
    for _ in range(10):
        start = rng.normal(size=(N, world.dim)) * math.sqrt(world.start_variance)
        noises = rng.normal(size=(len(world.steps), N, world.dim))
        uniforms = rng.uniform(size=len(world.steps))
        log_z, log_w, x, resampled = by_hand(world, start, noises, uniforms, potential, theta)
        swarm = smc(
            world.denoise, torch.tensor(start), world.steps, lambda i, e=noises: torch.tensor(e[i]),
            lambda i, u=uniforms: u[i], of, world.twist() if theta else None,
            torch.full((1,), theta, dtype=F64),
        )  # fmt: skip
        swarm = swarm.rewarded(world.tilt(swarm.z))
        assert swarm.log_z == pytest.approx(log_z, rel=0, abs=1e-12)
        assert swarm.resampled == resampled
        torch.testing.assert_close(swarm.log_weights, torch.tensor(log_w), rtol=0, atol=1e-11)
        torch.testing.assert_close(swarm.z, torch.tensor(x), rtol=0, atol=1e-11)
        often += resampled
    never = ("none", 0.0), ("raw", 1.4)  # weights of the one are equal, of the other nearly
    assert (often == 0) == ((potential, theta) in never)


def test_resampling_and_the_effective_number_by_hand(rng):
    """Of 300 sets of weights, from nearly equal ones to nearly one alone."""
    for size in range(2, 302):
        log_w = torch.randn(size, generator=rng, dtype=F64) * (0.1, 1.0, 5.0, 30.0)[size % 4]
        u = torch.rand((), generator=rng, dtype=F64).item()
        weights = np.exp(log_w.numpy() - log_w.max().item())
        weights /= weights.sum()
        assert systematic(log_w.softmax(0), u).tolist() == combed(weights, u)
        assert effective(log_w) == pytest.approx(1 / np.square(weights).sum(), rel=1e-12)
        assert log_mean_exp(log_w) == pytest.approx(log_mean(log_w.numpy()), rel=0, abs=1e-12)


def settled(world):
    return lambda x0, i: world.steps[i].certainty * world.tilt(x0)


def test_resampling_duplicates_what_the_potential_prefers():
    world = gaussian(scale=4.0)
    swarm = swarm_of(world, potential=settled(world))
    assert swarm.resampled > 0
    assert len(swarm.ancestors.unique()) < N
    assert ((swarm.ancestors >= 0) & (swarm.ancestors < N)).all()
    plain = swarm_of(world)
    assert world.tilt(swarm.z).mean() > world.tilt(plain.z).mean() + 1
    assert effective(swarm.log_weights) > effective(plain.log_weights)


def test_duplicates_carry_their_estimate(rng):
    """After resampling at a step, each particle goes on from the very x and x̂0 of its ancestor."""
    world = gaussian(scale=6.0)
    seen = []

    def denoise(x, i):
        x0 = world.denoise(x, i)
        seen.append((x, x0))
        return x0

    uniforms = []
    noise = [torch.randn(N, world.dim, generator=rng, dtype=F64) for _ in world.steps]
    smc(
        denoise, world.start(N, rng), world.steps, lambda i: noise[i],
        lambda i: uniforms.append(i) or 0.5, settled(world),
    )  # fmt: skip
    assert uniforms
    for i, step in enumerate(world.steps[:-1]):
        x, x0 = seen[i]
        each = ((seen[i + 1][0] - step.noise * noise[i])[:, None] - step.mean(x, x0)).norm(dim=2)
        assert each.min(1).values.max() < 1e-9  # the mean of some particle of before
        if i not in uniforms:
            assert each.diagonal().max() < 1e-9  # its own


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_unusable_score_has_no_weight(bad):
    world = gaussian(scale=4.0)
    usual = settled(world)

    def potential(x0, i):
        values = usual(x0, i)
        if i == 5:
            values[0] = bad
        return values

    swarm = swarm_of(world, potential=potential)
    assert swarm.log_weights.isfinite().any() and math.isfinite(swarm.log_z)
    swarm = swarm_of(world, tilt=False)
    tilt = world.tilt(swarm.z)
    tilt[3] = bad
    rewarded = swarm.rewarded(tilt)
    assert rewarded.log_weights[3] == -math.inf
    kept = torch.cat([tilt[:3], tilt[4:]])
    assert rewarded.log_z == pytest.approx(log_mean_exp(kept) + math.log((N - 1) / N))


@pytest.mark.parametrize("theta", [0.0, 1.0])
def test_a_path_of_a_broken_model_has_no_weight(theta):
    """NaN from a step on, in all that follows."""
    world = gaussian(scale=4.0)

    def denoise(x, i):
        x0 = world.denoise(x, i)
        if i == 5:
            x0[2] = math.nan
        return x0

    for potential in (None, settled(world)):
        twist = world.twist() if theta else None
        swarm = swarm_of(
            world, 8, potential, twist, torch.full((1,), theta, dtype=F64), denoise=denoise
        )
        lost = ~swarm.z.isfinite().all(1)
        assert lost.sum() == 1 if swarm.resampled == 0 else lost.sum() <= 1
        assert (swarm.log_weights[lost] == -math.inf).all()
        assert math.isfinite(swarm.log_z)


def test_no_usable_score_has_no_z():
    world = gaussian()
    swarm = swarm_of(world, potential=lambda x0, i: torch.full((N,), math.nan))
    assert swarm.log_z == -math.inf
    assert swarm.resampled == 0


def test_the_reward_may_come_later():
    world = gaussian(scale=4.0)
    swarm = swarm_of(world, potential=settled(world), tilt=False)
    later, at_once = swarm.rewarded(world.tilt(swarm.z)), swarm_of(world, potential=settled(world))
    assert later.log_z == pytest.approx(at_once.log_z, rel=1e-12)
    torch.testing.assert_close(later.log_weights, at_once.log_weights)
    assert swarm.log_z != later.log_z  # the first one never changes
