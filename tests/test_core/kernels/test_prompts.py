"""Prompt kernels: who follows which references, and how strongly."""

import math

import pytest
import torch
from mmd_pack.mmd_core import GuidanceConfig, KernelConfig, Memory
from mmd_tests.support.guidance_runs import F64, guidance, latents, make


def test_a_prompt_kernel_draws_each_image_to_the_references_of_its_prompt(rng):
    left, right, x0 = latents(rng, 4, -3.0), latents(rng, 4, 3.0), latents(rng, 4)
    captions = torch.eye(2).repeat_interleave(4, 0)
    config = GuidanceConfig(strength=3.0, kernel=KernelConfig(prompt_kernel="cosine"))
    run = guidance(config, torch.cat([left, right]), captions=captions)
    x = x0 + 2.5 * torch.randn(x0.shape, generator=rng, dtype=F64)
    guided = run(x0, x, 2.5, torch.eye(2).repeat_interleave(2, 0)).flatten(1).mean(1)
    assert (guided[:2] < x0[:2].flatten(1).mean(1)).all()
    assert (guided[2:] > x0[2:].flatten(1).mean(1)).all()


def test_one_prompt_for_all_is_no_prompt_kernel(rng):
    y, x0, x = make(rng)
    same = {"cosine": 1.0, "rbf": 1.0}
    plain = guidance(GuidanceConfig(strength=3.0), y)(x0, x, 2.5)
    for name in same:
        config = GuidanceConfig(strength=3.0, kernel=KernelConfig(prompt_kernel=name))
        run = guidance(config, y, captions=torch.ones(len(y), 3))
        torch.testing.assert_close(run(x0, x, 2.5, torch.ones(len(x0), 3)), plain)


def two_kinds(rng, common=0.0):
    """References of two kinds, far apart, with captions whose cosine is `common`."""
    y = torch.cat([latents(rng, 6), latents(rng, 6) + 6])
    other = torch.tensor([common, math.sqrt(1 - common**2)], dtype=F64)
    first = torch.tensor([1.0, 0.0], dtype=F64)
    return y, torch.cat([first.expand(6, 2), other.expand(6, 2)])


@pytest.mark.parametrize("finished", [0, 3])
def test_one_prompt_and_references_of_two_kinds(finished, rng):
    """Half of the references are not meant: guidance is that by the others alone, as strong as ever."""
    y, captions = two_kinds(rng)
    x0 = latents(rng, 5, 0.4)
    x = x0 + 2.5 * torch.randn(x0.shape, generator=rng, dtype=F64)
    memory = None
    if finished:
        memory = Memory(latents(rng, finished), captions[:finished])
    h = 10.0  # the same for both
    kernel = {"bandwidth": "fixed", "bandwidth_value": h}
    prompted = GuidanceConfig(3.0, kernel=KernelConfig(prompt_kernel="cosine", **kernel))
    plain = GuidanceConfig(3.0, kernel=KernelConfig(**kernel))
    runs = [
        guidance(prompted, y, captions=captions, memory=memory, record=True),
        guidance(plain, y[:6], memory=memory, record=True),
    ]
    for run in runs:  # which is estimated from all references
        run.comparison.posterior.lacking = lambda *_: 0.0
    guided = runs[0](x0, x, 2.5, captions[:5]), runs[1](x0, x, 2.5)
    torch.testing.assert_close(*guided)
    rows = [run.trace[0] for run in runs]
    assert rows[0].mmd2_before == pytest.approx(rows[1].mmd2_before, abs=1e-9)
    assert rows[0].mmd2_after == pytest.approx(rows[1].mmd2_after, abs=1e-9)


@pytest.mark.parametrize("common", [0.0, 0.4, 0.9])
def test_a_batch_never_bursts_however_little_its_prompt_is_like_the_captions(common, rng):
    """Repulsion and attraction balance: the batch stays where the references are."""
    y, captions = two_kinds(rng, common)
    prompts = torch.tensor([[0.6, -0.8]], dtype=F64).expand(8, 2)  # like the first kind by .6
    w = latents(rng, 8, 3.0)
    run = guidance(
        GuidanceConfig(100.0, kernel=KernelConfig(prompt_kernel="cosine"), preserve=0.0),
        y,
        captions=captions,
    )
    run.comparison.posterior.lacking = lambda *_: 0.0
    for _ in range(30):
        w = w + 0.6 * (run(w, w, 2.5, prompts) - w)  # an Euler step
    reach = torch.cdist(y.flatten(1), y.flatten(1)).max()
    assert torch.cdist(w.flatten(1), y.flatten(1)).max() < 1.2 * reach


def test_prompts_distributed_like_captions_need_no_balance(rng):
    """Two samples for each caption: the published product kernel, as it stands."""
    from mmd_pack.mmd_core.kernels.prompts import balanced, prompt_weights

    _, captions = two_kinds(rng, 0.3)
    prompts = captions.repeat_interleave(2, 0)
    pairs = (prompts, prompts), (prompts, captions), (captions, captions)
    weights = [prompt_weights("cosine", a, b) for a, b in pairs]
    p, q = torch.full((24,), 1 / 24, dtype=F64), torch.full((12,), 1 / 12, dtype=F64)
    for found, expected in zip(balanced(*weights, p, q), weights, strict=True):
        torch.testing.assert_close(found, expected)


def test_an_image_whose_prompt_matches_no_caption_stays_as_it_is(rng):
    y, captions = two_kinds(rng)
    x0 = latents(rng, 5, 0.4)
    strange = torch.tensor(
        [[-1.0, 0.0]], dtype=F64
    )  # opposite of one, nothing in common with the other
    prompts = torch.cat([captions[:4], strange])
    run = guidance(
        GuidanceConfig(kernel=KernelConfig(prompt_kernel="cosine")),
        y,
        captions=captions,
        record=True,
    )
    guided = run(x0, x0 + 1, 2.5, prompts)
    assert torch.equal(guided[4], x0[4]) and not torch.equal(guided[:4], x0[:4])
    by_prompt, along_prompt = run.trace[0][-2:]
    assert by_prompt is along_prompt is None  # no call without the prompt
    assert all(map(math.isfinite, run.trace[0][:-2]))
