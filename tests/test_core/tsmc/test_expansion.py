"""Kernel expansions and witnesses: values against formulas, gradients against autograd."""

import math

import pytest
import torch
from mmd_pack.mmd_core import KERNELS, KernelConfig
from mmd_pack.mmd_core.comparison.feature_maps import make_features
from mmd_pack.mmd_core.kernels.bandwidth import median_distance
from mmd_pack.mmd_core.kernels.kernels import RADIAL_PROFILES
from mmd_pack.mmd_core.tsmc import KernelExpansion, Witness
from mmd_tests.studies.steering.worlds import F64

SPACES = ("latent", "low_pass", "channel_stats")
SHAPE = (4, 6, 5)


def pictures(rng, n, dtype=F64):
    """Latents whose channels have different means, spreads and correlations."""
    mix = torch.randn(4, 4, generator=rng, dtype=F64)
    x = torch.einsum("kc,nc...->nk...", mix, torch.randn(n, *SHAPE, generator=rng, dtype=F64))
    return (x + torch.randn(n, 4, 1, 1, generator=rng, dtype=F64)).to(dtype)


def shares(rng, n, dtype=F64):
    weights = torch.rand(n, generator=rng, dtype=F64)
    return (weights / weights.sum()).to(dtype)


def witness_of(rng, dtype=F64, offset=0.0, **settings):
    y, base = pictures(rng, 7, dtype) + offset, pictures(rng, 5, dtype) + offset
    config = KernelConfig(pool=2, **settings)
    return config, y, shares(rng, 7, dtype), base


def kernel_formula(config, x, z, h):
    """k of two rows of features, written out."""
    dim, distance = len(x), (x - z).norm()
    formulas = {
        "rbf": lambda h: torch.exp(-(distance**2) / (2 * h**2)),
        "imq": lambda h: (1 + distance**2 / h**2) ** -0.5,
        "laplacian": lambda h: torch.exp(-distance / h),
        "energy": lambda h: -distance,
    }
    if config.kernel == "polynomial":
        return (x @ z / dim + 1) ** 3
    if config.kernel == "linear":
        return x @ z
    multiples = (1.0,) if config.kernel == "energy" else config.multipliers
    return sum(formulas[config.kernel](m * h) for m in multiples) / len(multiples)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", KERNELS)
def test_witness_is_its_formula(name, space, rng):
    config, y, q, base = witness_of(rng, kernel=name, feature_space=space)
    features = make_features(space, SHAPE, 2)
    fy, fb, x = features(y).flatten(1), features(base).flatten(1), pictures(rng, 3)
    centered = fy - q @ fy
    h = median_distance(centered @ centered.T)
    expected = [
        sum(q[j] * kernel_formula(config, f, fy[j], h) for j in range(7))
        - sum(kernel_formula(config, f, fb[i], h) for i in range(5)) / 5
        for f in features(x).flatten(1)
    ]
    witness = Witness(config, y, q, base)
    torch.testing.assert_close(witness.value(x), torch.stack(expected), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", KERNELS)
def test_gradient_of_a_witness_is_that_of_autograd(name, space, rng):
    witness = Witness(*witness_of(rng, kernel=name, feature_space=space))
    x = pictures(rng, 3).requires_grad_()
    (expected,) = torch.autograd.grad(witness.value(x).sum(), x)
    assert expected.abs().max() > 0
    scale = expected.abs().max().item()
    found = witness.gradient(x.detach())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * scale)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", RADIAL_PROFILES)
def test_in_float32_far_from_the_origin(name, space, rng):
    """Distances keep their digits if all samples share a large offset."""
    config, y, q, base = witness_of(rng, kernel=name, feature_space=space, offset=100.0)
    x = pictures(rng, 3) + 100
    exact = Witness(config, y, q, base)
    rounded = Witness(config, y.float(), q.float(), base.float())
    assert rounded.value(x.float()).dtype == rounded.gradient(x.float()).dtype == torch.float32
    spread = exact.value(x).abs().max().clamp_min(1e-3)
    assert (rounded.value(x.float()) - exact.value(x)).abs().max() < 5e-3 * spread
    gradient = exact.gradient(x)
    assert (rounded.gradient(x.float()) - gradient).abs().max() < 1e-2 * gradient.abs().max()


@pytest.mark.parametrize("name", KERNELS)
def test_expansion_with_a_constant(name, rng):
    y, x = pictures(rng, 6).flatten(1), pictures(rng, 3).flatten(1).requires_grad_()
    kernel = KernelConfig(kernel=name).resolve(y @ y.T, y.shape[1])
    coefficients = torch.randn(6, generator=rng, dtype=F64)
    expansion = KernelExpansion(kernel, y, coefficients, 0.7)
    values = expansion.value(x)
    torch.testing.assert_close(values, expansion.values(x) @ coefficients + 0.7)
    (expected,) = torch.autograd.grad(values.sum(), x)
    torch.testing.assert_close(expansion.gradient(x.detach()), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", KERNELS)
def test_base_samples_are_not_compared_with_themselves(name, space, rng):
    """Each as if the witness had been made of the others."""
    config, y, q, base = witness_of(rng, kernel=name, feature_space=space)
    found = Witness(config, y, q, base).of_base()
    for i in range(5):
        others = torch.cat([base[:i], base[i + 1 :]])
        expected = Witness(config, y, q, others).value(base[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-9, atol=1e-10)


def test_one_base_sample_has_no_others(rng):
    config, y, q, base = witness_of(rng)
    witness = Witness(config, y, q, base[:1])
    torch.testing.assert_close(witness.of_base(), witness.value(base[:1]))


def test_a_witness_is_larger_at_references_than_at_base_samples(rng):
    config, y, q, base = witness_of(rng)
    witness = Witness(config, y + 3, q, base)
    assert witness.value(y + 3).min() > 0 > witness.value(base).max()


def test_references_that_all_coincide(rng):
    config, y, q, base = witness_of(rng)
    witness = Witness(config, y[:1].expand(7, -1, -1, -1), q, base)
    assert math.isfinite(witness.value(base).sum().item())
    assert witness.gradient(base).isfinite().all()


def test_patches_have_no_witness(rng):
    with pytest.raises(ValueError, match="patches.*MMDKernel"):
        Witness(*witness_of(rng, feature_space="patches"))
