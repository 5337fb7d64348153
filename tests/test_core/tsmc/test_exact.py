"""Worlds with known truth: the worlds, and what TRI-TSMC and other methods must reach in them."""

import functools
import math
from dataclasses import replace

import pytest
import torch
from mmd_pack.mmd_core.tsmc import (
    Learning,
    TSMCConfig,
    log_mean_exp,
    propose,
)
from mmd_tests.studies.steering import closed_form, free_drift, quadrature, truths
from mmd_tests.studies.steering.methods import Each, Found, importance, resampled, tri_tsmc
from mmd_tests.studies.steering.worlds import F64, MIXTURES, gaussian, line, normals

SEED = 6000


def rmse(log_z, truth):
    return (log_z - truth.log_z).square().mean().sqrt().item()


# ---- the worlds


@pytest.mark.parametrize("kind", ["linear", "quadratic"])
@pytest.mark.parametrize("flow", [False, True])
def test_closed_forms_are_what_many_paths_show(flow, kind):
    world = gaussian(kind, flow=flow, scale=1.0)
    truth, found = closed_form.truth(world), importance(world, 1, 8, 5000)
    error = found.log_z.std().item() / math.sqrt(8)
    assert abs(found.log_z.mean().item() - truth.log_z) < 5 * error < 0.1
    error = found.mean.std().item() / math.sqrt(8)
    assert abs(found.mean.mean().item() - truth.mean) < 5 * error < 0.1
    # d log Z / dλ = E_π[r]
    near = [closed_form.truth(replace(world, scale=1 + d)).log_z for d in (-1e-4, 1e-4)]
    assert (near[1] - near[0]) / 2e-4 == pytest.approx(truth.mean, rel=1e-6)


def test_the_denoiser_is_bayes_rule():
    """∫ x0 p(x0) p(x | x0) by summation over a fine grid."""
    world = line()
    grid = torch.linspace(-6, 6, 20001, dtype=F64)
    prior = world.prior
    density = (
        prior.weights
        * torch.exp(-((grid[:, None] - prior.means[:, 0]) ** 2) / (2 * prior.variance))
    ).sum(1)
    for signal, sigma in ((1.0, 3.0), (1.0, 0.3), (0.4, 0.6)):
        for x in (-2.0, 0.1, 1.5):
            joint = density * torch.exp(-((x - signal * grid) ** 2) / (2 * sigma**2))
            expected = (joint * grid).sum() / joint.sum()
            found = prior.denoise(torch.tensor([[x]], dtype=F64), sigma, signal)
            assert found.item() == pytest.approx(expected.item(), rel=1e-8)


@pytest.mark.parametrize("flow", [False, True])
def test_quadrature_is_what_many_paths_show(flow):
    world = line(flow)
    truth, found = line_truth(flow), truths.plain_run(world, 10, 20_000)
    assert abs(found.log_z - truth.log_z) < 5 * found.error < 0.1
    assert abs(found.mean - truth.mean) < 5 * found.mean_error < 0.1


def test_quadrature_is_exact_for_one_gaussian():
    world = gaussian("linear", 1)
    assert quadrature.log_z(world) == pytest.approx(closed_form.truth(world).log_z, abs=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_kept_truths_are_of_these_worlds(name):
    """A short run of another method agrees, and so do long runs of the plain and twisted models."""
    world, truth = MIXTURES[name](), truths.kept(name)
    assert truths.scale_kept(name) == world.scale
    assert truth.error < 0.02
    short = resampled(world, SEED, 12, 400, 0.9)
    error = math.hypot(short.log_z.std().item() / math.sqrt(12), truth.error)
    assert abs(short.log_z.exp().mean().log().item() - truth.log_z) < 5 * error < 0.5
    plain = truths.plain_kept(name)
    assert abs(plain.log_z - truth.log_z) < 5 * math.hypot(plain.error, truth.error)
    assert abs(plain.mean - truth.mean) < 5 * math.hypot(plain.mean_error, truth.mean_error)


# ---- acceptance


@pytest.mark.parametrize("flow", [False, True])
def test_the_optimal_twist_leaves_no_variance(flow):
    """Acceptance 2."""
    world = gaussian(flow=flow, scale=4.0)
    twist, one, n = closed_form.Optimal(world), torch.ones(1, dtype=F64), 8
    variance = world.start_variance
    start = normals(1, n, world.dim) * math.sqrt(variance) + variance * twist.first
    noise = lambda i: normals(2 + i, n, world.dim)  # noqa: E731
    paths = propose(world.denoise, start, world.steps, noise, twist, one)
    of_start = start @ twist.first - 0.5 * variance * twist.first @ twist.first
    log_w = world.tilt(paths.z) - paths.h[:, 0] + 0.5 * paths.H[:, 0, 0] - of_start
    assert log_w.std() < 1e-9
    assert abs(log_mean_exp(log_w) - closed_form.truth(world).log_z) < 1e-9


@functools.cache
def line_truth(flow):
    return quadrature.truth(line(flow))


@functools.cache
def on_a_line(flow) -> Found:
    return tri_tsmc(line(flow), SEED, 200)


@pytest.mark.parametrize("flow", [False, True])
def test_on_a_line(flow):
    """Acceptance 4: after 3 iterations of 16 paths, last batch and all paths; 200 replicates."""
    world, truth, found = line(flow), line_truth(flow), on_a_line(flow)
    for log_z in (found.last_log_z, found.log_z):
        assert abs(log_z.mean().item() - truth.log_z) < 0.1
        assert log_z.std() < 0.4
    assert found.last_ess.mean() > 0.5
    base = importance(world, SEED, 200, 16)
    assert base.ess.mean() < 0.2
    assert rmse(base.log_z, truth) > 1


def efforts(found):
    """The effective sample size of each batch by its number of paths, mean over replicates."""
    each = [[told.ess / told.count for told in learning.summaries] for learning in found.learnings]
    return torch.tensor(each, dtype=F64).mean(0)


@pytest.mark.parametrize("flow", [False, True])
def test_each_iteration_is_better_than_the_one_before(flow):
    """Acceptance 5: 200 replicates from θ = ½."""
    ess = efforts(on_a_line(flow))
    assert (ess[1:] > ess[:-1]).all(), ess


@pytest.mark.parametrize("budget, replicates", [(0.3, 12), (math.inf, 8)])
def test_the_trust_region_is_what_holds_a_free_drift(budget, replicates):
    """Acceptance 6: p = 80, N = 256."""
    world = free_drift.world()
    truth = closed_form.truth(world)
    found = [free_drift.learned(world, 256, budget, SEED + i) for i in range(replicates)]
    error = rmse(torch.tensor([each.log_z for each in found]), truth)
    assert error < 0.15 if budget < 1 else error > 3


@pytest.mark.parametrize("name", ["16-D linear", "16-D linear, flow"])
def test_beyond_best_of_n_and_fk_steering(name):
    """Acceptance 7: 64 paths each, 100 replicates."""
    world, truth = MIXTURES[name](), truths.kept(name)
    ours = rmse(tri_tsmc(world, SEED, 100).log_z, truth)
    assert ours < 0.6 * rmse(importance(world, SEED, 100).log_z, truth)
    assert ours < rmse(resampled(world, SEED, 100, potential="raw").log_z, truth)


def test_the_last_batch_is_unbiased():
    """Acceptance 8: mean of Ẑ/Z over 2000 replicates of an iteration and the next batch; λ = 1."""
    world, replicates, n = gaussian(scale=1.0), 2000, 8
    begin = Learning.start(TSMCConfig(n, 1, reward_scale=1.0, standardize=False), 1)
    rng = torch.Generator().manual_seed(SEED)

    def drawn(twist, theta):
        count = replicates * n
        noise = lambda i: torch.randn(count, world.dim, generator=rng, dtype=F64)  # noqa: E731
        paths = propose(world.denoise, world.start(count, rng), world.steps, noise, twist, theta)
        return paths.h.split(n), paths.H.split(n), world.reward.value(paths.z).split(n)

    first = zip(*drawn(world.twist(), begin.theta), strict=True)
    thetas = torch.stack([begin.learned(*batch).theta for batch in first])
    assert thetas.std() > 0.05
    h, H, rewards = map(torch.stack, drawn(each := Each([world.twist()], thetas), each.theta))
    ratio = h[..., 0] * thetas - 0.5 * H[..., 0, 0] * thetas**2
    log_z = torch.logsumexp(rewards - ratio, 1) - math.log(n)
    relative = (log_z - closed_form.truth(world).log_z).exp()
    error = relative.std().item() / math.sqrt(replicates)
    assert abs(relative.mean().item() - 1) < 4 * error < 0.1
