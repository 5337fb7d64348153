"""Kernels: values against their formulas, pulls against autograd."""

import math

import pytest
import torch
from mmd_pack.mmd_core.kernels.bandwidth import median_distance
from mmd_pack.mmd_core.kernels.config import KERNELS, KernelConfig
from mmd_pack.mmd_core.kernels.kernels import (
    DotKernel,
    Gram,
    RadialKernel,
    polynomial,
)

F64 = torch.float64

FORMULAS = {
    "rbf": lambda x, z, h: math.exp(-(math.dist(x, z) ** 2) / (2 * h**2)),
    "imq": lambda x, z, h: (1 + math.dist(x, z) ** 2 / h**2) ** -0.5,
    "laplacian": lambda x, z, h: math.exp(-math.dist(x, z) / h),
    "energy": lambda x, z, h: -math.dist(x, z),
}


def rows(rng, n, d=7, shift=0.0):
    return torch.randn(n, d, generator=rng, dtype=F64) + shift


@pytest.mark.parametrize("name", FORMULAS)
def test_radial_values_average_the_formula_over_bandwidths(name, rng):
    x, z, bandwidths = rows(rng, 3), rows(rng, 4), (0.7, 2.0)
    values = RadialKernel(name, bandwidths).values(Gram.of(x, z))
    for i in range(3):
        for j in range(4):
            expected = sum(FORMULAS[name](x[i], z[j], h) for h in bandwidths) / 2
            assert values[i, j].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("degree, offset", [(3, 1.0), (2, 0.5), (1, 0.0)])
def test_dot_values_are_the_formula(degree, offset, rng):
    x, z = rows(rng, 3), rows(rng, 4)
    values = DotKernel(degree, 7, offset).values(Gram.of(x, z))
    expected = torch.stack([torch.stack([(a @ b / 7 + offset) ** degree for b in z]) for a in x])
    torch.testing.assert_close(values, expected)


def kernels(gram, dim):
    return {name: KernelConfig(kernel=name).resolve(gram, dim) for name in KERNELS}


@pytest.mark.parametrize("name", KERNELS)
def test_pulls_are_the_gradient(name, rng):
    """∇₁k(x, z) from autograd equals pull · (z − x), or pull · z for dot-product kernels."""
    x, z = rows(rng, 5).requires_grad_(), rows(rng, 6, shift=0.3)
    kernel = kernels((z @ z.T), 7)[name]
    pulls = kernel.pulls(Gram.of(x.detach(), z))
    values = kernel.values(Gram.of(x, z))
    for i, j in ((0, 0), (2, 5), (4, 1)):
        (grad,) = torch.autograd.grad(values[i, j], x, retain_graph=True)
        towards = z[j] - x[i].detach() if kernel.radial else z[j]
        torch.testing.assert_close(grad[i], pulls[i, j] * towards, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_a_pull_in_units_is_about_a_displacement(name, rng):
    """Between typical rows the scaled pull is neither tiny nor huge, at any dimension."""
    for d in (8, 4096):
        z = rows(rng, 32, d)
        kernel = kernels(z @ z.T, d)[name]
        pulls = kernel.pulls(Gram.of(rows(rng, 8, d), z), in_units=True)
        assert 0.2 < pulls.mean() < 3


def test_scaled_pulls_are_unit_times_pulls(rng):
    gram = Gram.of(rows(rng, 3), rows(rng, 4))
    for name, unit in (("rbf", 4.0), ("imq", 4.0), ("laplacian", 4.0), ("energy", 2.0)):
        kernel = RadialKernel(name, (2.0,))
        torch.testing.assert_close(kernel.pulls(gram, in_units=True), unit * kernel.pulls(gram))
    cubic = polynomial(7, sq_norm=3.0)
    torch.testing.assert_close(cubic.pulls(gram, in_units=True), cubic.unit * cubic.pulls(gram))


def test_coinciding_rows_stay_finite(rng):
    """A sample that equals a reference, or another sample, has finite pulls under every kernel."""
    z = rows(rng, 4).float()
    for kernel in kernels(z @ z.T, 7).values():
        assert torch.isfinite(kernel.pulls(Gram.of(z, z))).all()


def test_median_distance(rng):
    z = rows(rng, 9)
    expected = torch.pdist(z).median().item()
    centred = z - z.mean(0)
    assert median_distance(centred @ centred.T) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_median_distance_is_positive_without_any_distance(n):
    assert median_distance(torch.zeros(n, n)) > 0
    twins = torch.ones(n, 3)
    assert median_distance(twins @ twins.T) > 0


@pytest.mark.parametrize("far", [1.0, 1e3])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_equal_references_have_no_distance(others, far, rng):
    """Rounding errors are no bandwidth, neither of inner products nor of what was subtracted."""
    some = far * torch.randn(1 + others, 48, generator=rng)
    z = torch.cat([some[:1].expand(7, 48), some[1:]])
    centre = z.mean(0)
    gram = (z - centre) @ (z - centre).T
    (h,) = KernelConfig(multipliers=(1.0,)).resolve(gram, 48, centre).bandwidths
    between = torch.pdist(z.double())
    expected = z.norm(dim=1).mean() if others == 0 else between.mean()
    assert h == pytest.approx(expected.item(), rel=1e-2)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"kernel": "gauss"}, "gauss"),
        ({"bandwidth": "mean"}, "mean"),
        ({"bandwidth": "fixed", "bandwidth_value": 0.0}, "bandwidth_value"),
        ({"multipliers": ()}, "multipliers"),
        ({"multipliers": (1.0, -2.0)}, "multipliers"),
        ({"multipliers": (float("nan"),)}, "multipliers"),
        ({"prompt_kernel": "dot"}, "dot"),
        ({"prompt_bandwidth": -1.0}, "prompt_bandwidth"),
    ],
)
def test_bad_settings_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        KernelConfig(**options)
