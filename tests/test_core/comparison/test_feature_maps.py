"""Features of latents: what they keep, and gradients pulled back through them against autograd."""

import math

import pytest
import torch
from mmd_pack.mmd_core import (
    Execution,
    Guidance,
    GuidanceConfig,
    KernelConfig,
    Latents,
    NoiseModel,
    Schedule,
    Window,
)
from mmd_pack.mmd_core.comparison.feature_maps import (
    ChannelStats,
    LowPass,
    Seen,
    Whole,
    make_features,
)
from mmd_tests.support.guidance_runs import autograd_mmd2, equal, latents

F64 = torch.float64
STATISTICS = ("channel_stats", "palette")
SPACES = ("latent", "low_pass", *STATISTICS)


def pictures(rng, n, shape=(4, 12, 10)):
    """Latents `(n, *shape)` whose channels have different means, spreads and correlations."""
    mix = torch.randn(shape[0], shape[0], generator=rng, dtype=F64)
    x = torch.einsum("kc,nc...->nk...", mix, torch.randn(n, *shape, generator=rng, dtype=F64))
    return x + torch.randn(n, shape[0], *[1] * (len(shape) - 1), generator=rng, dtype=F64)


def features_of(name, y, pool=3):
    features = make_features(name, y.shape[1:], pool)
    features.fit(Latents(y, equal(len(y))), NoiseModel())
    return features


@pytest.mark.parametrize("shape", [(4, 12, 10), (3, 9), (2, 3, 5, 4)])
@pytest.mark.parametrize("name", SPACES)
def test_pull_back_is_the_transposed_jacobian(name, shape, rng):
    y, x = pictures(rng, 6, shape), pictures(rng, 3, shape).requires_grad_()
    features = features_of(name, y)
    f = features(x)
    g = torch.randn(f.shape, generator=rng, dtype=F64)
    (expected,) = torch.autograd.grad((f * g).sum(), x)
    torch.testing.assert_close(features.pull_back(x.detach(), g), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("sigma", [0.5, 3.0])
@pytest.mark.parametrize("name", STATISTICS)
def test_the_residual_of_a_blur_is_a_constant_to_the_gradient(name, sigma, each, rng):
    """The covariance that an estimate has lost is added: the pull-back is that of the sum."""
    y, x = pictures(rng, 6), (0.3 * pictures(rng, 3)).requires_grad_()
    features = features_of(name, y)
    residual = 0.9 * sigma * torch.randn(x.shape, generator=rng, dtype=F64)
    f, _, spectrum = features.seen(x, residual, sigma, each)
    assert (f - features(x)).abs().max() > 0.02
    g = torch.randn(f.shape, generator=rng, dtype=F64)
    (expected,) = torch.autograd.grad((f * g).sum(), x)
    torch.testing.assert_close(features.pull_back(x.detach(), g, spectrum), expected)


def trace(covariances):
    return covariances.diagonal(dim1=-2, dim2=-1).sum(-1).mean()


@pytest.mark.parametrize("sigma", [4.0, 8.0, 12.0])
def test_what_estimates_have_lost_by_the_law_of_total_covariance(sigma, rng):
    """A model of eight distinct pictures, denoised exactly: far less is open than Gaussians leave.

    channel_stats takes images for 60 % richer in contrast than they are, palette for at most half
    of that: what is measured counts at least as `LEAST` of the bound.
    """
    y = pictures(rng, 8)
    x0 = y.repeat(32, 1, 1, 1)
    x = x0 + sigma * torch.randn(x0.shape, generator=rng, dtype=F64)
    likely = (torch.cdist(x.flatten(1), y.flatten(1)).square() / (-2 * sigma**2)).softmax(1)
    estimate = (likely @ y.flatten(1)).view_as(x)
    excess = {}
    for name in STATISTICS:
        features = features_of(name, y)
        seen = features.seen(estimate, x - estimate, sigma).spectrum.roots.square().sum(1).mean()
        excess[name] = (seen / trace(features._moments(x0)[1]) - 1).item()
    assert excess["channel_stats"] > 0.6
    assert -0.05 < excess["palette"] < excess["channel_stats"] / 2


@pytest.mark.parametrize("name", SPACES)
def test_one_small_step_moves_x_down_the_gradient_of_mmd2_of_features(name, rng):
    """Through `Guidance`, without anything lacking: the change of x̂0 is −λ · unit · ∂MMD²(f(x), f(y))/∂x · B."""
    y, x0 = pictures(rng, 7), pictures(rng, 4).requires_grad_()
    config = GuidanceConfig(
        strength=1e-6,
        kernel=KernelConfig(feature_space=name, pool=3, multipliers=(1.0,)),
        preserve=0,
    )
    run = Guidance(config, Latents(y, equal(7)), Schedule((2.0, 1.0, 0.0), Window(1e9, 0.0)))
    features, kernel = run.comparison.features, run.comparison.kernel
    features.seen = lambda x0, *given: Seen(features(x0), 0.0)
    value = autograd_mmd2(features(x0), features(y), kernel, torch.ones(7, dtype=F64))
    (grad,) = torch.autograd.grad(value, x0)
    x0 = x0.detach()
    change = (run(x0, x0, 2.0) - x0) * (1 - 1.0 / 2.0)  # what an Euler step makes of it
    rate = 1e-6 * (1 - 1.0 / 2.0)  # λ · rate of this step of an EPS model
    expected = -rate * kernel.bandwidths[0] ** 2 * len(x0) * grad
    assert (change - expected).norm() < 1e-5 * expected.norm()


def test_latent_is_everything(rng):
    y, x = pictures(rng, 3), pictures(rng, 2)
    features = Whole()
    assert features(x) is x and features.pull_back(x, y) is y


@pytest.mark.parametrize("shape", [(4, 12, 10), (2, 7, 7), (2, 1, 8, 9), (3, 5)])
@pytest.mark.parametrize("pool", [1, 2, 4, 50])
def test_low_pass_is_an_orthonormal_projection(shape, pool, rng):
    y = pictures(rng, 3, shape)
    features = LowPass(shape, pool)
    small = features(y)
    assert small.shape == (3, shape[0], *(max(1, round(n / pool)) for n in shape[1:]))
    torch.testing.assert_close(features(features.pull_back(y, small)), small)  # A Aᵀ = 1
    if pool == 1:
        torch.testing.assert_close(small, y)


def test_low_pass_keeps_what_is_large_and_drops_what_is_small(rng):
    """A ramp and its average survive, a chequerboard vanishes; values are √pool² times those of a pooled picture."""
    ramp = torch.linspace(-1, 1, 16, dtype=F64).expand(1, 1, 16, 16)
    board = (-1.0) ** (torch.arange(16)[:, None] + torch.arange(16)).to(F64)
    features = LowPass((1, 16, 16), 4)
    pooled = torch.nn.functional.avg_pool2d(ramp, 4)
    torch.testing.assert_close(features(ramp) / 4, pooled, rtol=0, atol=0.05)
    assert features(board[None, None]).norm() < 0.2 * board.norm()
    assert features.pull_back(ramp, features(ramp)).sub(ramp).norm() < 0.05 * ramp.norm()


def test_channel_stats_are_means_and_covariances_and_nothing_else(rng):
    x = pictures(rng, 2)
    features = ChannelStats()
    f = features(x) / math.sqrt(120)
    for one, row in zip(x, f, strict=True):
        places = one.flatten(1)
        torch.testing.assert_close(row[:4], places.mean(1))
        root = row[4:].view(4, 4)
        torch.testing.assert_close(root @ root, torch.cov(places, correction=0))
        assert torch.linalg.eigvalsh(root).min() >= 0
    shuffled = x.flatten(2)[:, :, torch.randperm(120, generator=rng)].view_as(x)
    torch.testing.assert_close(features(shuffled), features(x))


def test_channel_stats_are_almost_isometric(rng):
    """J Jᵀ between 1 and 2, on means exactly 1: strength means the same as for latents.

    Of blurred estimates it is at most 2: none of them moves further than √2 times its features.
    """
    x = pictures(rng, 1)
    features = ChannelStats()
    symmetric = []
    for i in range(4):
        for j in range(i, 4):
            g = torch.zeros(4, 4, dtype=F64)
            g[i, j] = g[j, i] = 1
            symmetric.append(torch.cat([torch.zeros(4, dtype=F64), (g / g.norm()).flatten()]))
    means = torch.eye(20, dtype=F64)[:4]
    for directions, high in ((means, 1), (torch.stack(symmetric), 2)):
        pulled = torch.cat([features.pull_back(x, g[None]) for g in directions]).flatten(1)
        eigenvalues = torch.linalg.eigvalsh(pulled @ pulled.T)
        assert eigenvalues.min() > 1 - 1e-9 and eigenvalues.max() < high + 1e-9
    spectrum = features._spectrum(x, 3.0 * torch.eye(4))
    pulled = torch.cat([features.pull_back(x, g[None], spectrum) for g in symmetric])
    assert torch.linalg.matrix_norm(pulled.flatten(1), 2) < math.sqrt(2)


def test_channel_stats_bear_pictures_of_one_color(rng):
    x = pictures(rng, 2).mean((2, 3), keepdim=True).expand(-1, -1, 12, 10).float()
    features = ChannelStats()
    pulled = features.pull_back(x, torch.randn(2, 20, generator=rng))
    assert torch.isfinite(features(x)).all() and torch.isfinite(pulled).all()


def test_noise_in_latents_is_as_much_noise_in_features(rng):
    """What makes E of features that of `posterior.py` with the same σ."""
    x = latents(rng, 1).double() * 3
    for name in ("low_pass", "channel_stats"):
        features = features_of(name, x)
        noisy = x + 1e-3 * torch.randn(4000, *x.shape[1:], generator=rng, dtype=F64)
        spread = (features(noisy) - features(x)).flatten(1).std(0)
        assert spread.min() > 0.6e-3 and spread.max() < 1.5e-3


@pytest.mark.parametrize("name", ["low_pass", *STATISTICS])
def test_guidance_brings_features_nearer_and_ignores_the_rest(name, rng):
    y, x0 = pictures(rng, 16), pictures(rng, 8)
    kernel = KernelConfig(feature_space=name)
    run = Guidance(
        GuidanceConfig(kernel=kernel, preserve=0),
        Latents(y, equal(16)),
        Schedule((5.0, 1.0, 0.0), Window(1e9, 0)),
        execution=Execution(record=True),
    )
    x = x0 + 5 * torch.randn(x0.shape, generator=rng, dtype=F64)
    guided = run(x0, x, 5.0)
    assert run.trace[0].mmd2_after < 0.7 * run.trace[0].mmd2_before
    if name == "low_pass":
        features, change = run.comparison.features, guided - x0
        kept = features.pull_back(x0, features(change))
        torch.testing.assert_close(kept, change)


def test_published_modes_compare_whole_latents():
    for mode in ("paper", "official"):
        with pytest.raises(ValueError, match="feature_space of MMDKernel to latent"):
            GuidanceConfig(mode=mode, kernel=KernelConfig(feature_space="low_pass"))


@pytest.mark.parametrize("options", [{"feature_space": "clip"}, {"pool": 0}, {"patch_size": 0}])
def test_unknown_features_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        KernelConfig(**options)
