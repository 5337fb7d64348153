"""The Gram-space engine against the same mathematics on whole latents."""

import math

import pytest
import torch
from mmd_pack.mmd_core.comparison.coupling import Coupling
from mmd_pack.mmd_core.comparison.gram_space import GramSpace
from mmd_pack.mmd_core.comparison.latents import Latents
from mmd_pack.mmd_core.comparison.rows import Rows
from mmd_pack.mmd_core.kernels.config import KERNELS, KernelConfig
from mmd_pack.mmd_core.kernels.mmd import mmd2, mmd2_grad
from mmd_tests.support.guidance_runs import latents

F64 = torch.float64


def space_of(y, weights=None, centred=True, memory=None, budget=math.inf, **options):
    weights = y.new_full((len(y),), 1 / len(y)) if weights is None else weights
    return GramSpace(Rows(Latents(y, weights), centred, budget), memory, **options)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (4, 6, 5), (4, 1, 6, 5)])
def test_combinations_of_samples_and_references_for_any_rank(shape, rng):
    y, x = latents(rng, 5, shape=shape), latents(rng, 3, 0.3, shape)
    to_w = torch.randn(3, 3, generator=rng, dtype=F64)
    to_z = torch.randn(3, 5, generator=rng, dtype=F64)
    to_z = to_z - (to_w.sum(1, keepdim=True) + to_z.sum(1, keepdim=True)) / 5  # whatever the origin
    for centred in (False, True):
        space = space_of(y, centred=centred)
        moved = space.project(x).start().moved(torch.cat([to_w, to_z], 1)).displacement()
        moved = moved.reshape(x.shape)
        expected = torch.einsum("ij,j...->i...", to_w, x) + torch.einsum("ij,j...->i...", to_z, y)
        torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("name", KERNELS)
def test_gradient_and_mmd2_equal_the_direct_ones(name, rng):
    """Also after moving, when samples are combinations, and with unequal weights."""
    y, x = latents(rng, 6), latents(rng, 4, 0.3)
    q = torch.rand(6, generator=rng, dtype=F64)
    q = q / q.sum()
    config = KernelConfig(kernel=name)
    space = space_of(y, q, config.radial)
    kernel = config.resolve(space.gram, x[0].numel())
    coupling = Coupling(torch.full((4,), 0.25, dtype=F64), -q)
    w = space.project(x).start()
    for _ in range(3):
        moved = x + w.displacement().reshape(x.shape)
        of_rows = coupling.mmd2_of_rows(kernel, space.gram, torch.arange(6))
        found = coupling.mmd2(kernel.values(w.gram), of_rows)
        assert found.item() == pytest.approx(mmd2(moved, y, kernel, q).item(), abs=1e-7)
        by = -coupling.velocity(kernel, w.gram, in_units=False)
        grad = (w.moved(by).displacement() - w.displacement()).reshape(x.shape)
        torch.testing.assert_close(grad / 4, mmd2_grad(moved, y, kernel, q), rtol=1e-6, atol=1e-10)
        w = w.moved(-0.3 * by)


def test_memory_rows_are_rows_like_any_other(rng):
    """A space with a memory holds the inner products of references and memory together."""
    y, memory, x = latents(rng, 6), latents(rng, 3, 1.0), latents(rng, 2)
    space = space_of(y, memory=memory)
    rows, own = (torch.cat([y, memory]) - y.mean(0)).flatten(1), (x - y.mean(0)).flatten(1)
    torch.testing.assert_close(space.gram, rows @ rows.T)
    torch.testing.assert_close(space.project(x).dots, own @ torch.cat([own, rows]).T)


@pytest.mark.parametrize("dim", [64, 16_384, 65_536])
def test_float32_gram_space_equals_the_direct_result(dim, rng):
    """1e-4 relative after 20 sub-steps, against the same flow on whole latents in float64."""
    y, x = latents(rng, 40, 0.5, (dim,)), latents(rng, 8, 0.9, (dim,))
    q = torch.full((40,), 1 / 40, dtype=F64)
    space = space_of(y.float(), q.float())
    kernel = KernelConfig().resolve(space.gram, dim)
    coupling = Coupling(torch.full((8,), 1 / 8), -q.float())
    w, direct, rate = space.project(x.float()).start(), x.clone(), 0.5
    for _ in range(20):
        w = w.moved(rate * coupling.velocity(kernel, w.gram))
        direct = direct - rate * scaled_gradient(direct, y, kernel)
    error = w.displacement().double() - (direct - x)
    assert error.norm() / (direct - x).norm() < 1e-4


def scaled_gradient(x, y, kernel):
    """Ĝ = mean over h of h²·B·∂MMD²_h/∂x, on whole latents."""
    total = torch.zeros_like(x)
    for h in kernel.bandwidths:
        single = type(kernel)(kernel.name, (h,))
        total += h**2 * len(x) * mmd2_grad(x, y, single)
    return total / len(kernel.bandwidths)
