"""The score of a batch against brute force, and its test against its promise."""

import itertools
import math

import pytest
import torch
from mmd_pack.mmd_core import KERNELS, KernelConfig, mmd2
from mmd_pack.mmd_core.comparison.score import permutation_p_value, score, thinned
from mmd_tests.support.guidance_runs import equal

F64 = torch.float64


def randn(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=F64)


@pytest.mark.parametrize("name", KERNELS)
def test_mmd2_and_witness_are_those_of_the_definition(name, rng):
    x, y = randn(rng, 5, 2, 3, 3) + 1, randn(rng, 7, 2, 3, 3)
    q = torch.rand(7, generator=rng, dtype=F64)
    q = q / q.sum()
    config = KernelConfig(name)
    found = score(x, y, q, config, 0)
    flat = y.flatten(1) - (q @ y.flatten(1) if config.radial else 0)
    kernel = config.resolve(flat @ flat.T, 18)
    assert found.mmd2 == pytest.approx(mmd2(x, y, kernel, q, unbiased=True).item())
    for i in range(5):
        rest = torch.cat([x[:i], x[i + 1 :]])
        # MMD² of a single row against others: k(x, x) + … − 2 Σ k(x, y): its cross term is the mean of k.
        expected = mean_k(x[i], rest, kernel, equal(4)) - mean_k(x[i], y, kernel, q)
        assert found.witness[i].item() == pytest.approx(expected)


def mean_k(one, others, kernel, weights):
    from mmd_pack.mmd_core.kernels.kernels import Gram

    values = kernel.values(Gram.of(one.flatten()[None], others.flatten(1)))
    return (values[0] @ weights).item()


def test_a_permutation_test_of_all_splits_is_the_exact_one(rng):
    """With 4 + 4 rows there are 70 splits: random ones must come to their share."""
    rows = torch.cat([randn(rng, 4, 3) + 1, randn(rng, 4, 3)])
    values = (-torch.cdist(rows, rows).square() / 4).exp()

    def statistic(chosen):
        rest = [i for i in range(8) if i not in chosen]
        within = [values[a][:, a].sum() - values[a, a].sum() for a in (list(chosen), rest)]
        return (within[0] + within[1]) / 12 - 2 * values[list(chosen)][:, rest].mean()

    real = statistic(range(4))
    splits = [statistic(s) for s in itertools.combinations(range(8), 4)]
    exact = (torch.stack(splits) >= real - 1e-12).double().mean().item()
    random = torch.Generator().manual_seed(0)
    assert permutation_p_value(values, 4, 20_000, random) == pytest.approx(exact, abs=0.012)


def test_p_values_are_uniform_where_nothing_differs_and_small_where_it_does(rng):
    same, other = [], []
    for seed in range(60):
        y = randn(rng, 20, 4)[:, :, None]
        x = randn(rng, 10, 4)[:, :, None]
        same.append(score(x, y, equal(20), KernelConfig(), 99, seed).p_value)
        other.append(score(x + 1.5, y, equal(20), KernelConfig(), 99, seed).p_value)
    same = torch.tensor(same)
    assert 0.3 < same.mean() < 0.7 and (same <= 0.1).float().mean() < 0.25
    assert max(other) < 0.05 and min(other) == pytest.approx(0.01)


def test_weights_are_part_of_what_is_tested(rng):
    """Two kinds of references; weights make the second rare: a batch of the second does not fit."""
    y = torch.cat([randn(rng, 30, 3, 1), randn(rng, 30, 3, 1) + 4])
    x = torch.cat([randn(rng, 9, 3, 1), randn(rng, 1, 3, 1) + 4])
    weights = torch.cat([torch.full((30,), 9.0), torch.ones(30)]).double()
    weights = weights / weights.sum()
    weighted = score(x, y, weights, KernelConfig(), 500)
    plain = score(x, y, equal(60), KernelConfig(), 500)
    assert plain.p_value < 0.05 < weighted.p_value
    assert 25 < weighted.tested < 45 and plain.tested == 60
    assert weighted.mmd2 < plain.mmd2


def test_thinning_keeps_in_proportion():
    weights = torch.tensor([4.0, 2.0, 1.0, 0.0]) / 7
    random = torch.Generator().manual_seed(0)
    counts = torch.zeros(4)
    for _ in range(2000):
        counts[thinned(weights, random)] += 1
    torch.testing.assert_close(counts / 2000, torch.tensor([1, 0.5, 0.25, 0]), atol=0.04, rtol=0)


def test_copies_are_found(rng):
    y = randn(rng, 12, 2, 4, 4)
    x = torch.cat([y[3:4] + 1e-3, randn(rng, 3, 2, 4, 4)])
    found = score(x, y, equal(12), KernelConfig())
    assert found.nearest[0] == 3 and found.distances[0] < 0.01
    assert (found.distances[1:] > 0.5).all()


def test_few_of_anything_have_no_p_value(rng):
    y = randn(rng, 12, 2, 2)
    assert math.isnan(score(randn(rng, 3, 2, 2), y, equal(12), KernelConfig()).p_value)
    single = score(randn(rng, 1, 2, 2), y[:1], equal(1), KernelConfig("energy"))
    assert math.isnan(single.p_value) and math.isfinite(single.mmd2)


@pytest.mark.parametrize("space", ["low_pass", "channel_stats", "patches", "palette"])
def test_every_feature_space_can_be_scored(space, rng):
    y, x = randn(rng, 12, 2, 8, 8).float(), randn(rng, 6, 2, 8, 8).float()
    config = KernelConfig(feature_space=space)
    far, near = (score(shifted, y, equal(12).float(), config, 199) for shifted in (x + 3, x))
    assert far.mmd2 > 3 * max(near.mmd2, 1e-3) and far.p_value < 0.02 < near.p_value


def test_of_very_many_references_some_are_compared(rng, monkeypatch):
    from mmd_pack.mmd_core.comparison import score as module

    monkeypatch.setattr(module, "MAX_SCORED_REFERENCES", 50)
    y, x = randn(rng, 300, 3, 1), randn(rng, 8, 3, 1)
    found = score(x, y, equal(300), KernelConfig())
    assert found.compared == 50 and found.tested == 50
    assert found.nearest.max() > 50, "all are looked at for the nearest"
