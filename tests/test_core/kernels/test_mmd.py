"""MMD² against double sums, its gradient against autograd."""

import pytest
import torch
from mmd_pack.mmd_core.kernels.config import KERNELS, KernelConfig
from mmd_pack.mmd_core.kernels.kernels import Gram
from mmd_pack.mmd_core.kernels.mmd import mmd2, mmd2_grad
from mmd_tests.support.guidance_runs import autograd_mmd2

F64 = torch.float64


def batch(rng, n, shape=(3, 4, 4), shift=0.0):
    return torch.randn(n, *shape, generator=rng, dtype=F64) + shift


def resolve(name, y):
    flat = y.flatten(1)
    centred = flat - flat.mean(0)
    return KernelConfig(kernel=name).resolve(centred @ centred.T, flat.shape[1])


def double_sum(x, y, kernel, unbiased):
    """The textbook estimate, pair by pair."""
    x, y = x.flatten(1), y.flatten(1)

    def mean(a, b, skip):
        values = [
            kernel.values(Gram.of(a[i : i + 1], b[j : j + 1])).item()
            for i in range(len(a))
            for j in range(len(b))
            if not (skip and i == j)
        ]
        return sum(values) / len(values)

    return mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("sizes", [(4, 4), (3, 5)])
@pytest.mark.parametrize("name", KERNELS)
def test_mmd2_is_the_double_sum(name, sizes, unbiased, rng):
    x, y = batch(rng, sizes[0]), batch(rng, sizes[1], shift=0.2)
    kernel = resolve(name, y)
    expected = double_sum(x, y, kernel, unbiased)
    # abs: a pair alone computes a self-distance of 1e-8 where the matrix has 0
    assert mmd2(x, y, kernel, unbiased=unbiased).item() == pytest.approx(
        expected, rel=1e-9, abs=1e-6
    )


@pytest.mark.parametrize("name", KERNELS)
def test_integer_weights_are_repeated_references(name, rng):
    x, y = batch(rng, 3), batch(rng, 3, shift=0.2)
    kernel = resolve(name, y)
    repeated = torch.cat([y, y[:1], y[:1]])
    weights = torch.tensor([3.0, 1.0, 1.0])
    torch.testing.assert_close(
        mmd2(x, y, kernel, weights), mmd2(x, repeated, kernel), rtol=1e-6, atol=1e-9
    )
    torch.testing.assert_close(mmd2_grad(x, y, kernel, weights), mmd2_grad(x, repeated, kernel))


@pytest.mark.parametrize("name", KERNELS)
def test_mmd2_of_a_set_with_itself_is_zero_and_symmetric(name, rng):
    x, y = batch(rng, 4), batch(rng, 4, shift=0.5)
    kernel = resolve(name, y)
    assert mmd2(y, y, kernel).item() == pytest.approx(0, abs=1e-7)  # roots of rounding
    torch.testing.assert_close(mmd2(x, y, kernel), mmd2(y, x, kernel))
    torch.testing.assert_close(mmd2(x, y, kernel), mmd2(x[[2, 0, 3, 1]], y, kernel))


@pytest.mark.parametrize("name", KERNELS)
def test_gradient_is_autograds_in_float64(name, rng):
    x, y = batch(rng, 5).requires_grad_(), batch(rng, 8, shift=0.2)
    weights = torch.rand(8, generator=rng, dtype=F64)
    kernel = resolve(name, y)
    (expected,) = torch.autograd.grad(autograd_mmd2(x, y, kernel, weights), x)
    torch.testing.assert_close(
        mmd2_grad(x.detach(), y, kernel, weights), expected, rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize("name", KERNELS)
def test_float32_gradient_at_the_size_of_sdxl_latents(name, rng):
    """1e-4 relative at D = 65 536, far from the origin."""
    x, y = batch(rng, 4, (4, 128, 128), 0.5), batch(rng, 12, (4, 128, 128), 0.6)
    kernel = resolve(name, y)
    xr = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(autograd_mmd2(xr, y, kernel, torch.ones(12, dtype=F64)), xr)
    grad = mmd2_grad(x.float(), y.float(), kernel).double()
    assert (grad - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6,), (4, 3), (4, 8, 8), (4, 1, 8, 8)])
def test_any_rank_and_dtype_comes_back(shape, dtype, rng):
    x, y = batch(rng, 3, shape).to(dtype), batch(rng, 4, shape).to(dtype)
    before = x.clone(), y.clone()
    grad = mmd2_grad(x, y, resolve("rbf", y.double()))
    assert (grad.shape, grad.dtype) == (x.shape, dtype)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


def test_unbiased_needs_two_of_each(rng):
    with pytest.raises(ValueError, match="at least 2"):
        mmd2(batch(rng, 1), batch(rng, 3), resolve("rbf", batch(rng, 3)), unbiased=True)
