"""Choosing rows and their weights, against brute force over subsets."""

import itertools

import pytest
import torch
from mmd_pack.mmd_core.kernels.config import KERNELS, KernelConfig
from mmd_pack.mmd_core.kernels.kernels import Gram
from mmd_pack.mmd_core.references import herding
from mmd_pack.mmd_core.references.herding import CenteredKernel, herd, optimal_weights

F64 = torch.float64


def kernel_values(rng, n, name="rbf", dim=5):
    rows = torch.randn(n, dim, generator=rng, dtype=F64)
    rows = rows - rows.mean(0)
    return KernelConfig(name).resolve(rows @ rows.T, dim).values(Gram.within(rows @ rows.T))


def weights(rng, n):
    q = torch.rand(n, generator=rng, dtype=F64) + 0.1
    return q / q.sum()


def reciprocal(kernel, chosen):
    """1ᵀK̃_S⁻¹1, with the ridge."""
    chosen = list(chosen)
    own = kernel.ridge * torch.eye(len(chosen), dtype=F64)
    return float(torch.linalg.inv(kernel.rows(chosen)[:, chosen] + own).sum())


@pytest.mark.parametrize("name", KERNELS)
def test_the_centred_kernel_is_that_of_differences_to_the_mean_embedding(name, rng):
    """⟨φ(x) − μ, φ(z) − μ⟩, as a product with the matrix that subtracts μ."""
    values, q = kernel_values(rng, 9, name), weights(rng, 9)
    subtract = torch.eye(9, dtype=F64) - q[:, None]  # (φ − μ)_i = Σ_j φ_j subtract_ji
    expected = subtract.T @ values @ subtract
    kernel = CenteredKernel(values, q)
    torch.testing.assert_close(kernel.rows(list(range(9))), expected)
    torch.testing.assert_close(kernel.rows(4), expected[4])
    torch.testing.assert_close(kernel.diagonal, expected.diagonal())


@pytest.mark.parametrize("name", ["rbf", "energy"])
def test_each_row_is_the_one_that_leaves_least_under_the_best_weights(name, rng):
    kernel = CenteredKernel(kernel_values(rng, 30, name), weights(rng, 30))
    chosen = herd(kernel, 6, rounds=0)
    for i, j in enumerate(chosen):
        others = set(range(30)) - set(chosen[:i])
        assert j == max(others, key=lambda x: reciprocal(kernel, [*chosen[:i], x]))


@pytest.mark.parametrize("name", ["rbf", "energy"])
def test_no_exchange_is_left_that_would_help(name, rng, monkeypatch):
    monkeypatch.setattr(herding, "MIN_GAIN", 0.0)
    kernel = CenteredKernel(kernel_values(rng, 30, name), weights(rng, 30))
    before, chosen = herd(kernel, 5, rounds=0), herd(kernel, 5, rounds=50)
    reached = reciprocal(kernel, chosen)
    assert reached >= reciprocal(kernel, before)
    for i in range(5):
        for j in set(range(30)) - set(chosen):
            assert reciprocal(kernel, [*chosen[:i], j, *chosen[i + 1 :]]) <= reached * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_hardly_any_subset_is_better(seed):
    """Of all 1001 subsets: one exchange at a time does not always lead to the best."""
    rng = torch.Generator().manual_seed(seed)
    kernel = CenteredKernel(kernel_values(rng, 14), weights(rng, 14))
    all_of_them = [reciprocal(kernel, s) for s in itertools.combinations(range(14), 4)]
    reached = reciprocal(kernel, herd(kernel, 4))
    assert sum(other > reached for other in all_of_them) <= 50


@pytest.mark.parametrize("count", [1, 7, 40])
@pytest.mark.parametrize("name", KERNELS)
def test_rows_are_chosen_once_and_as_many_as_wanted(name, count, rng):
    """Also where the kernel has a rank below the count (linear: 5)."""
    kernel = CenteredKernel(kernel_values(rng, 40, name), weights(rng, 40))
    chosen = herd(kernel, count)
    assert len(set(chosen)) == count and set(chosen) <= set(range(40))


def test_float32_values_serve_as_well(rng):
    values, q = kernel_values(rng, 200), weights(rng, 200)
    exact, kernel = CenteredKernel(values, q), CenteredKernel(values.float(), q)
    chosen = herd(kernel, 20)
    w = optimal_weights(kernel.rows(chosen)[:, chosen])
    assert float(w @ exact.rows(chosen)[:, chosen] @ w) == pytest.approx(
        float(w @ kernel.rows(chosen)[:, chosen] @ w), rel=1e-3
    )


def test_equal_rows_can_be_herded():
    kernel = CenteredKernel(torch.ones(20, 20), torch.full((20,), 1 / 20, dtype=F64))
    assert len(set(herd(kernel, 6))) == 6
    torch.testing.assert_close(
        optimal_weights(torch.zeros(6, 6, dtype=F64)).sum(), torch.tensor(1.0).to(F64)
    )


@pytest.mark.parametrize("k", [1, 2, 8, 60])
@pytest.mark.parametrize("rank", [1, 3, 60])
def test_no_direction_improves_the_best_weights(k, rank, rng):
    """Convex in w: the least value exceeds f(w) − 2 (w·Gw − min Gw)."""
    factors = torch.randn(k, rank, generator=rng, dtype=F64) + 0.5
    gram = factors @ factors.T
    w = optimal_weights(gram)
    assert (w >= 0).all() and w.sum() == pytest.approx(1)
    slope = gram @ w
    assert (
        2 * (w @ slope - slope.min()) <= herding.GAP * (w @ slope) + 1e-6 * gram.diagonal().mean()
    )


def test_best_weights_of_two_are_known(rng):
    """w₁ = (b − c) / (a + b − 2c) for [[a, c], [c, b]], cut to [0, 1]."""
    for a, b, c in ((1.0, 2.0, 0.5), (1.0, 3.0, -0.5), (1.0, 2.0, 1.2)):
        w = optimal_weights(torch.tensor([[a, c], [c, b]], dtype=F64))
        assert w[0] == pytest.approx(min(max((b - c) / (a + b - 2 * c), 0), 1), abs=0.01)


def test_progress_grows_to_its_end(rng, monkeypatch):
    monkeypatch.setattr(herding, "MIN_GAIN", -1.0)
    told = []
    herd(CenteredKernel(kernel_values(rng, 30), weights(rng, 30)), 5, 3, told.append)
    assert told == sorted(told) and told[-1] == pytest.approx(1)
