"""Samples that were left with noise are known again, whatever happened to them in between."""

import pytest
import torch
from mmd_pack.mmd_core import GuidanceConfig, References
from mmd_pack.mmd_core.guidance.unfinished import LIMIT, UNKNOWN, Unfinished
from mmd_tests.support.guidance_runs import SIGMAS, guidance, make

SHAPE = (4, 12, 10)


@pytest.fixture
def left(rng):
    """Samples with a common part, and the notes of them: their companions are 10 to 15."""
    common = torch.randn(1, *SHAPE, generator=rng)
    samples = common + 3 * torch.randn(6, *SHAPE, generator=rng)
    unfinished = Unfinished()
    unfinished.keep(samples, torch.arange(10, 16))
    return samples, unfinished


def composed(samples):
    """The lower part is from other samples, as nodes for regions make it."""
    samples = samples.clone()
    samples[..., 5:, :] = samples.flip(0)[..., 5:, :] * 1.3
    return samples


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("change", [lambda x: x, composed, lambda x: 1.0001 * x + 1e-4])
def test_samples_are_known_again(change, dtype, left):
    samples, unfinished = left
    order = torch.tensor([4, 0, 3])
    found = unfinished.companions_of(change(samples)[order].to(dtype))
    assert found.tolist() == [14, 10, 13]


def test_others_are_not(left, rng):
    samples, unfinished = left
    fresh = torch.randn(6, *SHAPE, generator=rng)
    for others in (fresh, samples + 0.1 * fresh, samples[..., :-1], samples * torch.nan):
        assert (unfinished.companions_of(others) == UNKNOWN).all()


def test_equal_samples_are_each_found_once(left):
    samples, unfinished = left
    twins = samples[[2, 2]]
    unfinished.keep(twins, torch.tensor([5, 7]))
    assert sorted(unfinished.companions_of(twins).tolist()) == [5, 7]


def test_only_the_newest_are_noted(left, rng):
    samples, unfinished = left
    for _ in range(LIMIT // 8):
        unfinished.keep(torch.randn(8, *SHAPE, generator=rng), torch.zeros(8))
    assert (unfinished.companions_of(samples) == UNKNOWN).all()


def test_known_companions_are_kept_and_the_noise_decides_the_others(rng):
    y, x0, x = make(rng, batch=4)
    config = GuidanceConfig(companions=True)
    drawn = guidance(config, y)
    drawn(x0, x, SIGMAS[1])
    known = torch.tensor([(int(drawn.chosen[0]) + 1) % 9, UNKNOWN, 8, UNKNOWN])
    run = guidance(config, y, known=known)
    run(x0, x, SIGMAS[1])
    assert run.chosen.tolist() == [known[0], drawn.chosen[1], 8, drawn.chosen[3]]


def test_sets_of_equal_content_share_what_is_left(rng):
    latents, weights = torch.randn(40, *SHAPE, generator=rng), torch.rand(40, generator=rng)
    first, again = (References(latents.clone(), weights.clone()) for _ in range(2))
    changed = latents.clone()
    changed[7] += 1e-3
    others = (
        References(latents),
        References(changed, weights),
        References(latents[:-1], weights[:-1]),
        References(latents.transpose(2, 3), weights),
    )
    assert first.unfinished is again.unfinished
    assert len({id(each.unfinished) for each in (first, *others)}) == 5


def test_what_is_left_dies_with_its_sets(rng):
    latents = torch.randn(3, *SHAPE, generator=rng)
    first, again = References(latents), References(latents)
    first.unfinished.keep(latents, torch.arange(3))
    del first
    assert again.unfinished.companions_of(latents).tolist() == [UNKNOWN] * 3
    again.unfinished.keep(latents, torch.arange(3))
    del again
    assert References(latents).unfinished.companions_of(latents).tolist() == [UNKNOWN] * 3
