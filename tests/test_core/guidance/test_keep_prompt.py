"""Mode keep_prompt: flow without the part that takes back what the prompt gave."""

import pytest
import torch
from mmd_pack.mmd_core import Base, ByPrompt, GuidanceConfig, KernelConfig
from mmd_tests.support.guidance_runs import F64, equal, guidance, latents, make


def moves(config, y, x0, x, **options):
    return guidance(config, y)(x0, x, 2.5, **options) - x0


@pytest.mark.parametrize("masked", [False, True])
def test_only_what_takes_the_prompt_back_is_left_out(masked, rng):
    """⟨d, p⟩ is never negative, and across p nothing changes."""
    y, x0, x = make(rng)
    mask = torch.rand(x0.shape, generator=rng, dtype=F64) if masked else None
    seen = torch.ones_like(x0) if mask is None else mask
    flow = moves(GuidanceConfig(), y, x0, x)
    sign = torch.tensor([1.0, -1, 1, -1, -1], dtype=F64).reshape(-1, 1, 1, 1)
    p = sign * flow + latents(rng, len(x0)) * 0.3
    kept = moves(GuidanceConfig(mode="keep_prompt"), y, x0, x, by_prompt=ByPrompt(p.clone(), mask))
    for i in range(len(x0)):
        before, after, along = ((part[i] * seen[i]).flatten() for part in (flow, kept, p))
        wanted = max(0.0, float(before @ along))
        assert float(after @ along) == pytest.approx(wanted, abs=1e-9 * float(along @ along))
        across = [part - (part @ along) / (along @ along) * along for part in (before, after)]
        torch.testing.assert_close(*across, rtol=1e-9, atol=1e-9)
    assert (kept[sign.flatten() > 0] - flow[sign.flatten() > 0]).abs().max() == 0


def test_without_cfg_it_is_flow(rng):
    y, x0, x = make(rng, dtype=torch.float32)
    both = [moves(GuidanceConfig(mode=mode), y, x0, x) for mode in ("flow", "keep_prompt")]
    assert torch.equal(*both)


def test_a_prompt_that_moves_nothing_changes_nothing(rng):
    y, x0, x = make(rng, dtype=torch.float32)
    still = ByPrompt(torch.zeros_like(x0))
    kept = moves(GuidanceConfig(mode="keep_prompt"), y, x0, x, by_prompt=still)
    assert torch.equal(kept, moves(GuidanceConfig(), y, x0, x))


@pytest.mark.parametrize("space", ["latent", "low_pass", "channel_stats"])
@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("preserve", [0.0, 0.98])  # 0.98 shortens the moves
def test_the_trace_shows_what_was_done(space, contrast, preserve, rng):
    """MMD² after the move is that of the moved estimates, and nothing of the prompt is taken back."""
    y, x0, x = make(rng)
    options = {"base": Base(latents(rng, 6, -0.5), equal(6))} if contrast else {}
    kernel = KernelConfig(feature_space=space)
    config = GuidanceConfig(mode="keep_prompt", kernel=kernel, preserve=preserve)
    p = -moves(GuidanceConfig(kernel=KernelConfig(feature_space=space)), y, x0, x)
    run = guidance(config, y, record=True, **options)
    guided = run(x0, x, 2.5, by_prompt=ByPrompt(p.clone()))
    (row,) = run.trace
    assert row.along_prompt > -1e-9
    fraction = 1 - 1.0 / 2.5
    again = run.comparison.start(x0, x - x0, 2.5).at((guided - x0) * fraction)
    assert row.mmd2_after == pytest.approx(float(again.mmd2(run.couplings.of(5, None))), rel=1e-9)
