"""What a run records, against the same figures computed on whole latents."""

import math

import pytest
import torch
from mmd_pack.mmd_core import (
    KERNELS,
    MODES,
    ByPrompt,
    GuidanceConfig,
    KernelConfig,
    Window,
    mmd2,
)
from mmd_pack.mmd_core.comparison.nearest import nearest_rows, relative_distances, spacing
from mmd_tests.support.guidance_runs import SIGMAS, guidance, latents, make

F64 = torch.float64


def exact(config=None, y=None, **options):
    """A run whose samples lack nothing, so that distances are those of the latents."""
    run = guidance(config or GuidanceConfig(), y, record=True, **options)
    run.comparison.posterior.lacking = lambda *_: 0.0
    return run


@pytest.mark.parametrize("mode", MODES)
def test_every_call_is_recorded_whether_guidance_acts_or_not(mode, rng):
    y, x0, x = make(rng)
    run = guidance(GuidanceConfig(mode=mode), y, window=Window(6.0, 0.9), record=True)
    for sigma in SIGMAS[:-1]:
        run(x0, x, sigma)
    assert [row.sigma for row in run.trace] == SIGMAS[:-1]
    assert [row.progress for row in run.trace] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert [bool(row.substeps) for row in run.trace] == [False, True, True, True, False]
    for row in run.trace:
        idle = row.substeps == 0
        assert (row.change == row.relative == 0) == idle
        assert (row.mmd2_after == row.mmd2_before) == idle


def test_recording_changes_nothing(rng):
    y, x0, x = make(rng)
    for space in ("latent", "low_pass", "channel_stats", "patches", "palette"):
        config = GuidanceConfig(kernel=KernelConfig(feature_space=space))
        runs = [guidance(config, y, record=record) for record in (False, True)]
        for sigma in SIGMAS[:-1]:
            assert torch.equal(*(run(x0, x, sigma) for run in runs))


def test_at_strength_0_it_looks_on(rng):
    y, x0, x = make(rng)
    run = guidance(GuidanceConfig(strength=0.0), y, record=True)
    assert run(x0, x, 2.5) is x0
    (row,) = run.trace
    assert row.substeps == 0 and row.mmd2_before > 0


def test_size_relative_to_the_samplers_step(rng):
    """An Euler step from σ to σ' moves x by (x0 − x + the change by guidance)(1 − σ'/σ)."""
    y, x0, x = make(rng)
    run = exact(y=y)
    guided, fraction = run(x0, x, 2.5), 1 - 1.0 / 2.5
    plain = x + (x0 - x) * fraction
    moved = x + (guided - x) * fraction
    ratios = (moved - plain).flatten(1).norm(dim=1) / (plain - x).flatten(1).norm(dim=1)
    assert run.trace[0].relative == pytest.approx(ratios.mean().item())


def test_share_of_kernel_values_without_information(rng):
    y, x0, x = make(rng)
    h = 1e-3 * (y[0] - y[1]).norm().item()
    tiny = {"bandwidth": "fixed", "bandwidth_value": h}
    for kernel, expected in (
        (KernelConfig(), 0.0),
        (KernelConfig(**tiny), 1.0),
        (KernelConfig(**tiny, multipliers=(1.0, 1e3)), 0.0),
        (KernelConfig(bandwidth="fixed", bandwidth_value=1e6 * h), 1.0),
        (KernelConfig("energy", **tiny), 0.0),
        (KernelConfig("polynomial"), 0.0),
    ):
        run = exact(GuidanceConfig(kernel=kernel), y)
        run(x0, x, 2.5)
        assert run.trace[0].saturated == expected, kernel


def test_distance_to_the_nearest_reference(rng):
    """By the median distance between neighbors among the references."""
    y, x0, x = make(rng)
    run = exact(GuidanceConfig(strength=0.0), y)
    run(x0, x, 2.5)
    between = torch.cdist(y.flatten(1), y.flatten(1)) + torch.diag(torch.full((9,), math.inf))
    expected = torch.cdist(x0.flatten(1), y.flatten(1)).amin(1) / between.amin(1).median()
    assert run.trace[0].nearest == pytest.approx(expected.mean().item())


@pytest.mark.parametrize("space", ["latent", "low_pass", "channel_stats", "patches", "palette"])
def test_the_end_of_a_run(space, rng):
    y, x0, _ = make(rng)
    x0[3] = y[5]
    run = guidance(GuidanceConfig(kernel=KernelConfig(feature_space=space)), y, record=True)
    record = run.finished(x0)
    assert (record.batch, record.references, record.rows) == (5, 9, ())
    assert record.nearest[3] == 5 and record.distances[3] == pytest.approx(0, abs=1e-6)
    assert min(record.distances[:3]) > 0.1
    if space == "latent":
        kernel = run.comparison.kernel
        assert record.mmd2 == pytest.approx(mmd2(x0, y, kernel, unbiased=True).item(), rel=1e-9)
        both = run.finished(x0[:2], together=x0)
        assert both.mmd2 == record.mmd2 and both.batch == 2
        assert run.finished(x0[:1]).mmd2 == pytest.approx(mmd2(x0[:1], y, kernel).item())


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_figures_are_numbers_for_every_kernel(kernel, rng):
    y, x0, x = make(rng)
    run = guidance(GuidanceConfig(kernel=KernelConfig(kernel)), y, record=True)
    run(x0, x, 2.5, by_prompt=ByPrompt(x0 / 2))
    assert all(map(math.isfinite, run.trace[0])) and math.isfinite(run.finished(x0).mmd2)


def test_nearest_rows_in_pieces(rng, monkeypatch):
    from mmd_pack.mmd_core.comparison import nearest

    monkeypatch.setattr(nearest, "CHUNK", 4)
    x, y = latents(rng, 6).flatten(1), latents(rng, 11).flatten(1)
    distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    index, found = nearest_rows(x, y)
    assert torch.equal(index, distances.argmin(1))
    torch.testing.assert_close(found, distances.amin(1))
    distances[torch.arange(6), index] = math.inf
    second, found = nearest_rows(x, y, skip=index)
    assert torch.equal(second, distances.argmin(1))
    torch.testing.assert_close(found, distances.amin(1))


def test_spacing_leaves_copies_out():
    line = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0])[:, None]
    assert spacing(line) == pytest.approx(1.0)
    assert spacing(torch.cat([line, line, line])) != 0
    twice = torch.cat([line, torch.tensor([[0.0], [10.0]])])  # two pictures are there twice
    assert spacing(twice) == pytest.approx(1.0)
    assert math.isnan(spacing(line[:1])) and math.isnan(spacing(line[:1].repeat(3, 1)))


def test_distances_in_half_precision_and_from_afar():
    """fp16 latents, far from the origin, in fp32: a copy is 0, not rounding."""
    y = torch.randn(40, 256, generator=torch.Generator().manual_seed(0)) + 30
    index, distances = relative_distances(y[[7, 3]].half(), y.half())
    assert index.tolist() == [7, 3] and (distances < 1e-2).all()
    _, fresh = relative_distances(
        torch.randn(9, 256, generator=torch.Generator().manual_seed(1)) + 30, y
    )
    assert fresh.median() == pytest.approx(1, abs=0.1)


# --- guidance and the prompt ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [False, True])
def test_guidance_by_the_prompt(mode, masked, rng):
    """Its change of x̂0, as far as the mask lets it through, over that by the prompt."""
    y, x0, x = make(rng)
    p = latents(rng, len(x0))
    mask = torch.rand(x0.shape, generator=rng, dtype=F64).round(decimals=1) if masked else None
    config = GuidanceConfig(mode=mode, strength=0.1 if "official" in mode else 20.0)
    run = guidance(config, y, record=True, carry=lambda step: 0.9)
    d = run(x0, x, 2.5, by_prompt=ByPrompt(p.clone(), mask)) - x0
    if masked:
        d, p = d * mask, p * mask
    d, p = d.flatten(1), p.flatten(1)
    (row,) = run.trace
    assert row.by_prompt == pytest.approx((d.norm(dim=1).sum() / p.norm(dim=1).sum()).item())
    assert row.along_prompt == pytest.approx(((d * p).sum() / p.square().sum()).item())
    assert 0 < abs(row.along_prompt) < row.by_prompt


def test_guidance_that_takes_the_prompt_back(rng):
    """And an estimate of the prompt that is the reverse of guidance, or of another size."""
    y, x0, x = make(rng)
    config = GuidanceConfig(strength=20.0)
    d = guidance(config, y)(x0, x, 2.5) - x0
    found = []
    for factor in (1.0, -1.0, 2.0):
        run = guidance(config, y, record=True)
        run(x0, x, 2.5, by_prompt=ByPrompt(d * factor))
        found.append([run.trace[0].by_prompt, run.trace[0].along_prompt])
    assert found == [pytest.approx(pair) for pair in ([1, 1], [1, -1], [0.5, 0.5])]


def test_without_a_prompt_there_is_nothing_to_compare(rng):
    """Nor where both prompts are equal but for rounding, nor where guidance does not act."""
    y, x0, x = make(rng, dtype=torch.float32)
    run = guidance(GuidanceConfig(), y, window=Window(6.0, 0.9), record=True)
    run(x0, x, 2.5)
    for by in (torch.zeros_like(x0), x0 * 1e-7):
        run(x0, x, 2.5, by_prompt=ByPrompt(by))
    run(x0, x, 14.0, by_prompt=ByPrompt(x0.clone()))
    assert [bool(row.substeps) for row in run.trace] == [True, True, True, False]
    assert {(row.by_prompt, row.along_prompt) for row in run.trace} == {(None, None)}


def test_comparing_with_the_prompt_changes_nothing(rng):
    y, x0, x = make(rng, dtype=torch.float32)
    plain = guidance(GuidanceConfig(), y, record=True)(x0, x, 2.5)
    compared = guidance(GuidanceConfig(), y, record=True)
    assert torch.equal(compared(x0, x, 2.5, by_prompt=ByPrompt(x0 / 3)), plain)
