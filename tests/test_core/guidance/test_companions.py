"""Companions: few images follow a reference each, drawn by its weight."""

import math

import pytest
import torch
from mmd_pack.mmd_core import (
    FEW,
    KERNELS,
    GuidanceConfig,
    KernelConfig,
    Memory,
)
from mmd_pack.mmd_core.guidance.companions import MIN_OPEN, companions, nearest_companions
from mmd_tests.support.guidance_runs import F64, guidance, latents


def few(**options):
    return GuidanceConfig(**options).for_batch(1)


def test_only_few_images_of_the_flow_have_companions():
    config = GuidanceConfig()
    assert config.for_batch(FEW) is config and not config.companions
    assert config.for_batch(FEW - 1).companions
    assert 0 < config.for_batch(1).strength < config.strength
    for mode in ("paper", "official"):
        published = GuidanceConfig(mode=mode)
        assert published.for_batch(1) is published


@pytest.mark.parametrize("dim", [4000, 30])  # more and fewer numbers than references
def test_companions_are_drawn_by_their_weight(dim, rng):
    weights = torch.arange(40, dtype=F64)
    weights = weights / weights.sum()
    draws = 3000
    noise = torch.randn(draws, dim, generator=rng)
    found = torch.stack([companions(n[None], weights[None]) for n in noise]).flatten()
    shares = torch.bincount(found, minlength=40) / draws
    assert shares[0] == 0
    assert (shares - weights).abs().sum() / 2 < 0.08


def test_companions_of_a_batch_differ_until_all_are_taken(rng):
    weights = torch.full((7, 5), 0.2)
    found = companions(torch.randn(7, 3, 8, 8, generator=rng), weights).tolist()
    assert len(set(found[:5])) == 5 and set(found) == set(range(5))
    assert companions(torch.randn(3, 64, generator=rng), torch.ones(3, 1)).tolist() == [0, 0, 0]


def test_the_noise_decides_whatever_its_precision(rng):
    noise, weights = torch.randn(4, 4, 16, 16, generator=rng), torch.full((4, 30), 1 / 30)
    assert torch.equal(companions(noise, weights), companions(noise.double(), weights.double()))
    assert torch.equal(companions(noise, weights), companions(noise + 1e-5, weights))


def moves(rng, batch, config, **options):
    """References, samples and how guidance moves them, at a high noise level."""
    y, x0 = latents(rng, 9), latents(rng, batch, 0.4)
    x = x0 + 6.0 * torch.randn(x0.shape, generator=rng, dtype=F64)
    run = guidance(config, y, **options)
    return run, y, x0, x, run(x0, x, 6.0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_sample_goes_straight_to_its_companion(kernel, rng):
    """As in a batch of one with a set of one, whatever the kernel; a cubic one bends the way."""
    run, y, x0, _, guided = moves(rng, 3, few(kernel=KernelConfig(kernel)))
    for i, j in enumerate(run.chosen.tolist()):
        way, moved = (y[j] - x0[i]).flatten(), (guided[i] - x0[i]).flatten()
        similarity = torch.cosine_similarity(way, moved, dim=0)
        assert similarity > (0.5 if kernel == "polynomial" else 1 - 1e-9)
        # An Euler step does not go past it, but for the little that a singular kernel overshoots.
        assert moved.norm() * (1 - 2.5 / 6.0) < 1.05 * way.norm()


def test_companions_stay_for_the_run_and_leave_when_most_is_settled(rng):
    run, _, x0, x, _ = moves(rng, 2, few())
    chosen = run.chosen
    assert run.comparison.posterior.open(2.5) > MIN_OPEN > run.comparison.posterior.open(0.4)
    assert not torch.equal(run(x0, x.flip(0), 2.5), x0)
    assert torch.equal(run.chosen, chosen)
    assert torch.equal(run(x0, x, 0.4), x0)


@pytest.mark.parametrize("prompts", [False, True])
def test_companions_are_of_the_kind_that_is_missing_among_finished_samples(prompts, rng):
    """Six of one kind are finished: the next two are of the other. Other prompts do not count."""
    y = torch.cat([latents(rng, 6, 0.5), latents(rng, 6, -0.5)])
    x0 = latents(rng, 2)
    memory, given, kernel = Memory(latents(rng, 6, 0.5)), {}, None
    if prompts:
        memory = memory._replace(prompts=torch.eye(2)[1].expand(6, 2))
        kernel = KernelConfig(prompt_kernel="cosine")
        given = {"captions": torch.eye(2)[0].expand(12, 2)}
    of_other_kind = 0
    for _ in range(10):
        run = guidance(few(kernel=kernel), y, memory=memory, **given)
        x = x0 + 14.0 * torch.randn(x0.shape, generator=rng, dtype=F64)
        run(x0, x, 14.0, torch.eye(2)[:1].expand(2, 2) if prompts else None)
        of_other_kind += int((run.chosen >= 6).sum())
    assert of_other_kind == 20 if not prompts else 4 < of_other_kind < 16


def test_with_finished_samples_the_noise_still_decides(rng):
    memory, x0 = Memory(latents(rng, 3)), latents(rng, 1)
    y, chosen = latents(rng, 40), set()
    for _ in range(30):
        run = guidance(few(), y, memory=memory)
        run(x0, x0 + 6.0 * torch.randn(x0.shape, generator=rng, dtype=F64), 6.0)
        chosen.add(int(run.chosen))
    assert len(chosen) > 5


def test_with_a_prompt_kernel_companions_have_a_caption_like_the_prompt(rng):
    y = latents(rng, 10)
    captions = torch.eye(2).repeat(5, 1)
    config = few(kernel=KernelConfig(prompt_kernel="cosine"))
    for _ in range(5):
        x0 = latents(rng, 4)
        x = x0 + 6.0 * torch.randn(x0.shape, generator=rng, dtype=F64)
        run = guidance(config, y, captions=captions)
        run(x0, x, 6.0, torch.eye(2).repeat(2, 1))
        assert (run.chosen % 2).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("shape", [(4, 12, 10), (4, 96, 96)])
@pytest.mark.parametrize("batch", [1, 7])
def test_smooth_sets_are_followed_in_the_first_part_of_every_schedule(shape, batch, rng):
    """Sets of flat pictures, whose color every noise level seems to settle."""
    y = 3 * torch.randn(9, 4, 1, 1, generator=rng, dtype=F64).expand(9, *shape).contiguous()
    for sigmas in ([14.0, 6.0, 2.5, 1.0, 0.4, 0.0], [1.5, 0.9, 0.3, 0.0]):
        run = guidance(few(), y, sigmas=sigmas, record=True)
        assert run.comparison.posterior.open(sigmas[0]) < MIN_OPEN
        for sigma in sigmas[:-1]:
            x = sigma * torch.randn(batch, *shape, generator=rng, dtype=F64)
            run(x / (1 + sigma**2), x, sigma)
        acted = [bool(row.substeps) for row in run.trace]
        assert acted[0] and not acted[-1]


def test_pictures_have_the_nearest_references_each_its_own():
    distances = torch.tensor([[1.0, 2.0, 9.0, 4.0], [0.5, 3.0, 9.0, 8.0], [0.7, 0.9, 9.0, 0.8]])
    even = torch.ones(3, 4)
    assert nearest_companions(distances, even).tolist() == [1, 0, 3]
    assert nearest_companions(distances[:, :2], even[:, :2]).tolist() == [0, 0, 1]
    assert nearest_companions(distances[:, :1], even[:, :1]).tolist() == [0, 0, 0]
    # References without weight, or with hardly any for this picture, are left out.
    weights = torch.tensor([[1e-9, 1.0, 1.0, 1.0], [0.0, 0.0, 5.0, 5.0], [1.0, 1.0, 1.0, 0.0]])
    assert nearest_companions(distances, weights).tolist() == [1, 3, 0]
    # No numbers are too odd to choose one.
    odd = torch.tensor([[math.inf, math.inf], [math.nan, 1.0], [math.inf, math.nan]])
    for weights in (torch.ones(3, 2), torch.zeros(3, 2), torch.full((3, 2), math.nan)):
        assert set(nearest_companions(odd, weights).tolist()) <= {0, 1}


def test_a_run_from_pictures_follows_the_references_nearest_to_them(rng):
    y, x0 = latents(rng, 9), latents(rng, 4, 0.4)
    x = x0 + 6.0 * torch.randn(x0.shape, generator=rng, dtype=F64)
    near = torch.tensor([6, 0, 3, 7])
    begun = y[near] + 0.1 * x0
    run = guidance(few(), y, begun=begun)
    run(x0, x, 6.0)
    assert run.chosen.tolist() == near.tolist()
    # With a prompt kernel: the nearest of those with a caption like the prompt.
    captions = torch.eye(2)[[0, 0, 0, 1, 0, 0, 0, 0, 0]]
    config = few(kernel=KernelConfig(prompt_kernel="cosine"))
    run = guidance(config, y, captions=captions, begun=begun)
    run(x0, x, 6.0, torch.eye(2)[[0, 0, 0, 0]])
    assert run.chosen[[0, 1, 3]].tolist() == [6, 0, 7] and run.chosen[2] not in near
