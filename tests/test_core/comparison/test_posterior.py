"""The variance that x̂0 has lost, against Gaussians whose posterior is known, and against kernels of real samples."""

import math

import pytest
import torch
from mmd_pack.mmd_core import Latents, NoiseModel
from mmd_pack.mmd_core.comparison.gram_space import GramSpace
from mmd_pack.mmd_core.comparison.posterior import (
    LEAST,
    Posterior,
    band_variances,
    cosine_basis,
)
from mmd_pack.mmd_core.comparison.rows import Rows
from mmd_pack.mmd_core.kernels.kernels import Gram, RadialKernel
from mmd_pack.mmd_core.kernels.transfers import Asked
from mmd_tests.support.guidance_runs import equal

F64 = torch.float64
SHAPE = (3, 24, 16)


def spectrum(shape=SHAPE):
    """A power law over radial frequency, as latents have, with shape `shape[1:]`."""
    radius = torch.zeros(shape[1:], dtype=F64)
    for axis, n in enumerate(shape[1:]):
        along = [-1 if a == axis else 1 for a in range(len(shape) - 1)]
        radius = radius + (torch.arange(n, dtype=F64) / n).square().reshape(along)
    return 1 / (0.01 + radius)


def gaussians(rng, n, shape=SHAPE):
    """Latents with that spectrum, and their coefficients."""
    f = torch.randn(n, *shape, generator=rng, dtype=F64) * spectrum(shape).sqrt()
    x = f
    for axis in range(2, f.ndim):
        x = (x.movedim(axis, -1) @ cosine_basis(f.shape[axis])).movedim(-1, axis)
    return x, f


@pytest.mark.parametrize("n", [1, 2, 7])
def test_cosine_basis_is_orthonormal_and_ordered_by_frequency(n):
    basis = cosine_basis(n)
    torch.testing.assert_close(basis @ basis.T, torch.eye(n, dtype=F64))
    crossings = (basis[:, 1:] * basis[:, :-1] < 0).sum(1)
    assert crossings.tolist() == list(range(n))


@pytest.mark.parametrize("shape", [(40,), (4, 30), SHAPE, (3, 1, 24, 16)])
def test_bands_hold_the_whole_variance(shape, rng):
    y = torch.randn(9, *shape, generator=rng, dtype=F64) * 2 + 5
    v, counts = band_variances(Latents(y, equal(9)), Asked())()
    assert counts.sum() == y[0].numel()
    assert (v @ counts).item() == pytest.approx(y.flatten(1).var(0).sum().item())


def test_a_reference_with_weight_2_counts_as_two_in_the_mean_and_spread(rng):
    y = torch.randn(4, *SHAPE, generator=rng, dtype=F64)
    weights = torch.tensor([0.4, 0.2, 0.2, 0.2], dtype=F64)
    v, counts = band_variances(Latents(y, weights), Asked())()
    mean = (weights[:, None, None, None] * y).sum(0)
    spread = (weights[:, None, None, None] * (y - mean).square()).sum() / (1 - (weights**2).sum())
    assert (v @ counts).item() == pytest.approx(spread.item())


@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0, 40.0])
def test_the_bound_is_the_posterior_variance_of_a_gaussian(sigma, rng):
    y, _ = gaussians(rng, 64)
    v = spectrum().expand(SHAPE)
    expected = (v * sigma**2 / (v + sigma**2)).sum().item()
    posterior = Posterior(Latents(y, equal(64)), NoiseModel())
    assert posterior.bound(sigma) == pytest.approx(expected, rel=0.05)
    assert posterior.bound(math.inf) == pytest.approx(y.flatten(1).var(0).sum().item())


@pytest.mark.parametrize("flow_matching", [False, True])
@pytest.mark.parametrize("sigma", [0.3, 0.6])
def test_the_measurement_finds_a_model_that_knows_more(sigma, flow_matching, rng):
    """References from a narrow law, bound from a wide one: E is the narrow one's posterior variance."""
    noise = NoiseModel(flow_matching)
    level = noise.level(sigma)
    y, f = gaussians(rng, 64)
    v = spectrum() * 0.5  # what the model knows: half of the references' variance is no news to it
    clean = y * math.sqrt(0.5)
    x = clean + level * torch.randn(y.shape, generator=rng, dtype=F64)
    g = x
    for axis in (2, 3):
        g = (g.movedim(axis, -1) @ cosine_basis(g.shape[axis]).T).movedim(-1, axis)
    x0 = g * v / (v + level**2)
    for axis in (2, 3):
        x0 = (x0.movedim(axis, -1) @ cosine_basis(g.shape[axis])).movedim(-1, axis)
    expected = (v * level**2 / (v + level**2)).expand(SHAPE).sum().item()
    assert (x0 - clean).square().flatten(1).sum(1).mean().item() == pytest.approx(
        expected, rel=0.05
    )
    posterior = Posterior(Latents(y, equal(64)), noise)
    found = float(posterior.lacking(x - x0, sigma))
    assert found == pytest.approx(expected, rel=0.05)
    assert found < 0.95 * posterior.bound(level)


def test_e_stays_between_a_part_of_the_bound_and_the_bound(rng):
    """Whatever guidance or a large cfg does to x; and the bound alone where noise hides the rest."""
    y, _ = gaussians(rng, 16)
    posterior = Posterior(Latents(y, equal(16)), NoiseModel())
    x0, sigma = y[:4], 0.5
    bound = posterior.bound(sigma)
    assert float(posterior.lacking(torch.full_like(x0, 9 * sigma), sigma)) == pytest.approx(
        LEAST * bound, rel=0.01
    )
    assert float(posterior.lacking(0 * x0, sigma)) == pytest.approx(bound)
    assert float(posterior.lacking(-x0, 1e4)) == pytest.approx(posterior.bound(1e4), rel=1e-3)


def test_a_single_reference_leaves_no_variance(rng):
    y, _ = gaussians(rng, 1)
    assert Posterior(Latents(y, equal(1)), NoiseModel()).lacking(y, 1.0) == 0


def test_distances_are_those_of_posterior_samples(rng):
    """E on the Gram diagonal against kernels averaged over samples x̂0 + ε drawn one by one."""
    shape, lacking = (4, 40, 40), 900.0
    y, x0 = (torch.randn(n, *shape, generator=rng, dtype=F64) for n in (6, 4))
    space = GramSpace(Rows(Latents(y, equal(6))))
    kernel = RadialKernel("rbf", (60.0, 120.0))
    gram = space.project(x0, lacking).start().gram
    assert torch.equal(gram.sq_dist().diagonal(), torch.zeros(4, dtype=F64))
    values = kernel.values(gram)
    within, across = torch.zeros(4, 4, dtype=F64), torch.zeros(4, 6, dtype=F64)
    for _ in range(200):
        noise = torch.randn(x0.shape, generator=rng, dtype=F64)
        drawn = (x0 + noise * math.sqrt(lacking / x0[0].numel())).flatten(1)
        within += kernel.values(Gram.within(drawn @ drawn.T)) / 200
        across += kernel.values(Gram.of(drawn, y.flatten(1))) / 200
    torch.testing.assert_close(values[:, :4], within, rtol=0.01, atol=0)
    torch.testing.assert_close(values[:, 4:], across, rtol=0.01, atol=0)
