"""The surrogate of a reward that gives only scores."""

import math

import pytest
import torch
from mmd_pack.mmd_core.tsmc import fitted
from mmd_tests.studies.steering.worlds import F64, modes


def scored(rng, n=48, dim=6):
    z = modes(dim).sample(n, rng)
    return z, 2 * z[:, 0] + z[:, 1].sin()


def test_is_kernel_ridge_regression(rng):
    """Against its textbook form, in float64."""
    z, scores = scored(rng)
    distances = torch.cdist(z, z)
    upper = distances[torch.triu_indices(48, 48, 1).unbind()]
    kernel = torch.exp(-(distances**2) / (2 * upper.median() ** 2))
    a = torch.linalg.solve(kernel + 0.1 * torch.eye(48, dtype=F64), scores - scores.mean())
    torch.testing.assert_close(
        fitted(z, scores).value(z).double(), kernel @ a + scores.mean(), rtol=1e-3, atol=1e-3
    )


def test_gradient_is_that_of_autograd(rng):
    z, scores = scored(rng)
    surrogate = fitted(z, scores)
    x = (modes(6).sample(4, rng)).requires_grad_()
    (expected,) = torch.autograd.grad(surrogate.value(x).sum(), x)
    found = surrogate.gradient(x.detach())
    assert found.dtype == F64
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_it_predicts_scores_of_fresh_samples(rng):
    z, scores = scored(rng)
    fresh, true = scored(rng, 200)
    error = (fitted(z, scores).value(fresh) - true).square().mean()
    assert error < 0.4 * true.var()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_samples_without_a_score_are_left_out(bad, rng):
    z, scores = scored(rng)
    broken = scores.clone()
    broken[[3, 7]] = bad
    kept = torch.ones(48, dtype=torch.bool)
    kept[[3, 7]] = False
    x = modes(6).sample(4, rng)
    torch.testing.assert_close(
        fitted(z, broken).value(x), fitted(z[kept], scores[kept]).value(x), rtol=0, atol=0
    )


def test_equal_scores_give_a_surrogate_without_slope(rng):
    z, scores = scored(rng)
    surrogate = fitted(z, torch.full_like(scores, 3.0))
    x = modes(6).sample(4, rng)
    torch.testing.assert_close(surrogate.value(x), torch.full((4,), 3.0))
    assert (surrogate.gradient(x) == 0).all()


def test_pictures_keep_their_shape(rng):
    z, scores = scored(rng, dim=24)
    surrogate = fitted(z.reshape(48, 2, 3, 4).float(), scores)
    assert surrogate.gradient(z[:5].reshape(5, 2, 3, 4).float()).shape == (5, 2, 3, 4)
    torch.testing.assert_close(
        surrogate.value(z[:5].reshape(5, 2, 3, 4)), fitted(z, scores).value(z[:5])
    )


@pytest.mark.parametrize("n", [1, 2])
def test_very_few_scores(n, rng):
    z, scores = scored(rng, n)
    surrogate = fitted(z, scores)
    assert surrogate.value(z).isfinite().all()
    assert surrogate.gradient(z).isfinite().all()
