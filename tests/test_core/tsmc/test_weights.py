"""Importance weights and systematic resampling."""

import math

import pytest
import torch
from mmd_pack.mmd_core.tsmc import effective, log_mean_exp, systematic
from mmd_tests.studies.steering.worlds import F64


def test_log_mean_exp_survives_large_numbers(rng):
    values = torch.randn(9, generator=rng, dtype=F64)
    expected = math.log(sum(map(math.exp, values.tolist())) / 9)
    assert log_mean_exp(values) == pytest.approx(expected, rel=1e-12)
    assert log_mean_exp(values + 1e4) == pytest.approx(expected + 1e4, rel=1e-12)
    assert log_mean_exp(torch.full((3,), -math.inf, dtype=F64)) == -math.inf


def test_effective_number(rng):
    weights = torch.rand(9, generator=rng, dtype=F64)
    expected = weights.sum() ** 2 / weights.square().sum()
    assert effective(weights.log() - 5e3) == pytest.approx(expected.item(), rel=1e-9)
    assert effective(torch.zeros(7, dtype=F64)) == pytest.approx(7)
    some = torch.tensor([0.0, -math.inf, 0.0, -math.inf], dtype=F64)
    assert effective(some) == pytest.approx(2)
    assert effective(torch.full((3,), -math.inf, dtype=F64)) == 0


@pytest.mark.parametrize("count", [None, 5, 64])
@pytest.mark.parametrize("n", [1, 2, 16, 257])
def test_copies_differ_from_their_share_by_less_than_1(n, count, rng):
    """Acceptance 10."""
    for spread in (0.1, 3.0, 30.0):
        weights = (spread * torch.randn(n, generator=rng, dtype=F64)).softmax(0)
        for u in (0.0, torch.rand((), generator=rng, dtype=F64).item(), 1 - 2**-53):
            chosen = systematic(weights, u, count)
            assert len(chosen) == (n if count is None else count)
            copies = chosen.bincount(minlength=n)
            assert len(copies) == n
            assert ((copies - len(chosen) * weights).abs() < 1 + 1e-9).all()


def test_the_mean_number_of_copies_is_the_share(rng):
    weights = torch.randn(8, generator=rng, dtype=F64).softmax(0)
    places = (torch.arange(2000, dtype=F64) + 0.5) / 2000
    copies = sum(systematic(weights, u, 5).bincount(minlength=8) for u in places.tolist())
    assert (copies / 2000 - 5 * weights).abs().max() < 2e-3


def test_equal_weights_are_one_copy_each():
    for n in (3, 7, 1000):
        assert torch.equal(systematic(torch.full((n,), 1 / n, dtype=F64), 0.5), torch.arange(n))


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_no_weight_is_no_copy(u):
    weights = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0, 0.0], dtype=F64)
    assert set(systematic(weights, u, 50).tolist()) == {1, 3}
    last = torch.tensor([0.1] * 10 + [0.0], dtype=F64)  # ten tenths are less than 1
    assert systematic(last, u, 1000).max() == 9
