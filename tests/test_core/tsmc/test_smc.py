"""SMC: every potential estimates the same Z."""

import math

import pytest
import torch
from mmd_pack.mmd_core.tsmc import effective, log_mean_exp, propose, smc
from mmd_tests.studies.steering import closed_form
from mmd_tests.studies.steering.methods import importance, resampled
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
