"""How alike the kept part of an image is to the references."""

import torch
from mmd_pack.mmd_core import GuidanceConfig, Latents
from mmd_pack.mmd_core.guidance.kept import alike
from mmd_tests.support.guidance_runs import F64, equal, guidance, latents


def two_kinds(rng, n=10, shape=(2, 3, 4)):
    """By turns references around −4 and around 4."""
    sides = torch.tensor([-4.0, 4.0], dtype=F64).repeat(n // 2)
    return torch.randn(n, *shape, generator=rng, dtype=F64) + sides.reshape(-1, 1, 1, 1)


def test_weights_are_those_of_the_formula(rng):
    y = two_kinds(rng)
    x = y[:3] + 0.1
    d = (x[:, None] - y).flatten(2).norm(dim=2)
    between = (y[:, None] - y).flatten(2).norm(dim=2).fill_diagonal_(torch.inf)
    spacing, nearest = between.amin(1).median(), d.amin(1, keepdim=True)
    expected = torch.exp((nearest**2 - d**2) / torch.maximum(spacing, nearest) ** 2)
    torch.testing.assert_close(alike(x, Latents(y, equal(10))), expected)


def test_a_similar_kept_part_decides_and_one_like_no_reference_does_not(rng):
    y = Latents(two_kinds(rng), equal(10))
    near = alike(torch.full((1, 2, 3, 4), 4.0, dtype=F64), y)[0]
    assert near[1::2].min() > 1e3 * near[::2].max()
    far = alike(torch.full((1, 2, 3, 4), 1e3, dtype=F64), y)[0]
    assert far.min() > 0.9


def test_equal_references_say_nothing(rng):
    y = torch.ones(4, 2, 3, 4, dtype=F64)
    assert alike(torch.zeros(1, 2, 3, 4, dtype=F64), Latents(y, equal(4))) is None
    assert alike(torch.zeros(1, 2, 3, 4, dtype=F64), Latents(y[:1], equal(1))) is None


def test_a_sample_follows_the_references_that_are_alike(rng):
    """Equal samples move apart, each towards the references that it is alike to."""
    y = latents(rng, 12)
    y[::2] += 5
    x0 = y.mean(0, keepdim=True) + 0.1 * torch.randn(8, *y.shape[1:], generator=rng, dtype=F64)
    x = x0 + 2.5 * torch.randn(x0.shape, generator=rng, dtype=F64)
    kinds = torch.zeros(8, 12, dtype=F64)
    kinds[:4, ::2] = kinds[4:, 1::2] = 1
    config = GuidanceConfig(strength=3.0)
    moved = guidance(config, y, alike=kinds)(x0, x, 2.5) - x0
    up, down = moved[:4].mean(), moved[4:].mean()
    assert up > 0 > down
    everyone = guidance(config, y, alike=torch.ones(8, 12, dtype=F64))(x0, x, 2.5)
    torch.testing.assert_close(everyone, guidance(config, y)(x0, x, 2.5))
