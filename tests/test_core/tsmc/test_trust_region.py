"""The trust region: τ against the published dual, the projection against an optimiser."""

import math

import pytest
import torch
from mmd_pack.mmd_core.tsmc.trust_region import project, tempered
from mmd_tests.studies.steering.worlds import F64

SIZES = [16, 64, 1024]


def log_ratios(rng, n, spread=3.0):
    return spread * torch.randn(n, generator=rng, dtype=F64) + 5.0


def dual_tau(log_r, budget):
    """τ = 1/(1 + λ); λ ≥ 0 minimizes λ ε + (1 + λ) log mean R^{1/(1+λ)}, by golden sections."""
    log_n = math.log(len(log_r))

    def value(lam):
        return lam * budget + (1 + lam) * (torch.logsumexp(log_r / (1 + lam), 0).item() - log_n)

    low, high, golden = 0.0, 200.0, (math.sqrt(5) - 1) / 2
    for _ in range(120):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if value(a) < value(b) else (a, high)
    return 1 / (1 + low)


@pytest.mark.parametrize("budget", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("n", SIZES)
def test_tau_is_that_of_the_dual(n, budget, rng):
    """Acceptance 1: |Δτ| < 1e-5; if τ < 1, the perplexity of the weights is N e^{−ε}."""
    binding = 0
    for _ in range(20):
        ratios = log_ratios(rng, n)
        found = tempered(ratios, budget)
        assert abs(found.tau - dual_tau(ratios, budget)) < 1e-5
        if found.tau < 1:
            binding += 1
            weights = found.weights
            perplexity = (-torch.special.xlogy(weights, weights).sum()).exp().item()
            assert abs(perplexity - n * math.exp(-budget)) < 1e-3 * n
            assert found.kl == pytest.approx(budget, rel=1e-6)
    assert binding >= 5


def test_a_small_step_is_taken_whole(rng):
    ratios = log_ratios(rng, 16, 0.1)
    found = tempered(ratios, 1.0)
    assert found.tau == 1.0
    torch.testing.assert_close(found.weights, ratios.softmax(0))


@pytest.mark.parametrize("n", SIZES)
def test_from_log_n_on_there_is_no_trust_region(n, rng):
    assert tempered(log_ratios(rng, n, 20.0), math.log(n)).tau == 1.0


def test_paths_of_another_law_count_with_their_offsets(rng):
    """A path drawn k times equals one path with the offset log k, also in the estimate of KL."""
    ratios = log_ratios(rng, 12)
    copies = torch.randint(1, 5, (12,), generator=rng)
    found = tempered(ratios, 0.6, copies.double().log())
    whole = tempered(ratios.repeat_interleave(copies), 0.6)
    assert 0 < found.tau < 1
    assert found.tau == pytest.approx(whole.tau, rel=1e-9)
    assert found.kl == pytest.approx(whole.kl, rel=1e-9)
    expected = torch.zeros(12, dtype=F64).index_add_(
        0, torch.arange(12).repeat_interleave(copies), whole.weights
    )
    torch.testing.assert_close(found.weights, expected)


def test_what_has_no_weight_gets_none_and_still_counts_as_drawn(rng):
    ratios = log_ratios(rng, 16)
    ratios[3] = -math.inf
    found = tempered(ratios, 1.0)
    assert found.weights[3] == 0
    assert found.weights.sum().item() == pytest.approx(1)
    low = ratios.clone()
    low[3] = -1e5
    assert found.tau == pytest.approx(tempered(low, 1.0).tau, rel=1e-3)


def sums(rng, n=40, p=3):
    features = torch.randn(n, 6, p, generator=rng, dtype=F64)
    noise = torch.randn(n, 6, generator=rng, dtype=F64)
    h = torch.einsum("ntp,nt->np", features, noise)
    return h, torch.einsum("ntp,ntq->npq", features, features)


@pytest.mark.parametrize("prior_sd", [0.5, 2.0])
def test_the_projection_is_weighted_maximum_likelihood(prior_sd, rng):
    """Against L-BFGS on Σ ŵ (θᵀh − ½ θᵀHθ) − Σ ŵ² ‖θ − θ_0‖² / 2σ_θ²."""
    h, H = sums(rng)
    weights = log_ratios(rng, 40, 1.0).softmax(0)
    prior = torch.tensor([0.5, 0.1, -0.3], dtype=F64)
    theta = torch.zeros(3, dtype=F64, requires_grad=True)
    best = torch.optim.LBFGS(
        [theta], max_iter=200, tolerance_grad=1e-13, line_search_fn="strong_wolfe"
    )

    def loss():
        best.zero_grad()
        fit = h @ theta - 0.5 * torch.einsum("p,npq,q->n", theta, H, theta)
        off = (theta - prior).square().sum() / (2 * prior_sd**2)
        value = weights.square().sum() * off - weights @ fit
        value.backward()
        return value

    best.step(loss)
    found = project(torch.full((3,), 0.2, dtype=F64), weights, h, H, math.inf, prior, prior_sd)
    torch.testing.assert_close(found, theta.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("budget", [1e-3, 0.1])
def test_the_projection_stays_within_the_budget(budget, rng):
    h, H = sums(rng)
    h, theta, prior = h + 20, torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64)
    weights = torch.full((40,), 1 / 40, dtype=F64)
    free = project(theta, weights, h, H, math.inf, prior)
    found = project(theta, weights, h, H, budget, prior)
    length = 0.5 * found @ H.mean(0) @ found
    assert length.item() == pytest.approx(budget, rel=1e-9)
    torch.testing.assert_close(found / found.norm(), free / free.norm())


def test_a_feature_that_never_acted_stays_without_a_prior(rng):
    h, H = sums(rng)
    h[:, 1], H[:, 1], H[:, :, 1] = 0, 0, 0
    weights = torch.full((40,), 1 / 40, dtype=F64)
    theta, prior = torch.full((3,), 0.7, dtype=F64), torch.zeros(3, dtype=F64)
    assert project(theta, weights, h, H, math.inf, prior, math.inf)[1] == 0.7
    assert project(theta, weights, h, H, math.inf, prior, 0.5)[1] == 0
