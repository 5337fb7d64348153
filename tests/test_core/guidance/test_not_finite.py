"""Estimates that are not finite, and references that do not fit into memory."""

import pytest
import torch
from mmd_pack.mmd_core import (
    MODES,
    Execution,
    Guidance,
    GuidanceConfig,
    KernelConfig,
    Latents,
    Schedule,
    Window,
)
from mmd_pack.mmd_core.comparison import latents as module
from mmd_pack.mmd_core.comparison import rows
from mmd_pack.mmd_core.comparison.workers import Workers
from mmd_pack.mmd_core.guidance.guidance import NotFinite
from mmd_pack.mmd_core.kernels.config import FEATURE_SPACES
from mmd_tests.support.tiny_models import random

BATCH = 8
BROKEN = [3, 8]  # images, counted from 1
SPACES = [KernelConfig(feature_space=name) for name in FEATURE_SPACES]


def guidance(kernel=None, strength=20.0, references=None, **options):
    settings = {"kernel": kernel or KernelConfig(), "strength": strength, "mode": "flow"}
    settings |= {key: options.pop(key) for key in ("mode",) if key in options}
    return Guidance(
        GuidanceConfig(**settings),
        references or latents(),
        Schedule((10.0, 5.0, 2.0, 1.0, 0.0), Window(torch.inf, 0.0)),
        execution=Execution(record=True, **options),
    )


def latents(prepare=lambda x: x):
    return Latents(random(12, 4, 8, 8, seed=1), torch.full((12,), 1 / 12), prepare)


def damaged(x, number=torch.nan):
    x = x.clone()
    for image in BROKEN:
        x[image - 1, 0, 0, 0] = number
    return x


@pytest.mark.parametrize("which", ["x0", "x"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kernel", SPACES, ids=lambda kernel: kernel.feature_space)
def test_an_estimate_that_is_not_finite_is_refused(kernel, number, which):
    run, x0, x = guidance(kernel), random(BATCH, 4, 8, 8), 5 * random(BATCH, 4, 8, 8, seed=2)
    given = {"x0": x0, "x": x} | {which: damaged(x0, number)}
    with pytest.raises(
        NotFinite, match="at sigma 5 is NaN or infinite for samples 3, 8$"
    ) as caught:
        run(given["x0"], given["x"], 5.0)
    assert (caught.value.sigma, caught.value.images) == (5.0, BROKEN) and not run.trace
    assert run(x0, x, 5.0).isfinite().all() and len(run.trace) == 1


@pytest.mark.parametrize("sigma", [5.0, 1.0], ids=["guided", "outside of the window"])
@pytest.mark.parametrize("strength", [0.0, 20.0])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", ["rbf", "energy", "polynomial"])
def test_it_is_refused_in_every_mode_and_where_guidance_only_looks(kernel, mode, strength, sigma):
    run = guidance(KernelConfig(kernel), strength, mode=mode)
    with pytest.raises(NotFinite) as caught:
        run(damaged(random(BATCH, 4, 8, 8)), 5 * random(BATCH, 4, 8, 8, seed=2), sigma)
    assert caught.value.images == BROKEN


def test_few_images_that_are_not_finite_are_refused():
    run = guidance()
    run.config = run.config.for_batch(2)
    assert run.config.companions
    x0 = random(2, 4, 8, 8)
    x0[1] = torch.nan
    with pytest.raises(NotFinite) as caught:
        run(x0, 5 * random(2, 4, 8, 8, seed=2), 10.0)
    assert caught.value.images == [2]


class Twins(Workers):
    """Two workers who draw the same."""

    size = 2

    def gather(self, own):
        return torch.cat([own, own])


def test_images_of_other_workers_are_named_too():
    run = guidance(workers=Twins())
    with pytest.raises(NotFinite) as caught:
        run(damaged(random(BATCH, 4, 8, 8)), 5 * random(BATCH, 4, 8, 8, seed=2), 5.0)
    assert caught.value.images == [3, 8, 11, 16]


class Full:
    """A device that is full whenever references are to be held, after so many of their pieces."""

    def __init__(self, pieces=1, often=2):
        self.pieces, self.often, self.count = pieces, often, 0

    def fail(self, *_):
        self.count += 1
        if self.count % self.pieces == 0 and self.count // self.pieces <= self.often:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("often, kind", [(1, torch.float16), (2, None)])
@pytest.mark.parametrize("pieces", [1, 2])
def test_references_that_find_no_room_after_all_are_streamed(pieces, often, kind, monkeypatch):
    """What was free when it was asked is taken a moment later: first fp16 is tried, then nothing is held."""
    monkeypatch.setattr(module, "PIECE", 4 * 8 * 8 * 6)  # two pieces
    monkeypatch.setattr(module.Latents.pieces, "__defaults__", (module.PIECE, 0, None))
    hold, full = rows.Rows._hold, Full(pieces, often)
    given = latents()
    x0, x = random(BATCH, 4, 8, 8), 5 * random(BATCH, 4, 8, 8, seed=2)
    expected = guidance(references=latents(), budget=0.0)(x0, x, 5.0)

    def with_little_room(self, dtype):
        prepare = self.latents.prepare
        self.latents.prepare = lambda piece: (full.fail(), prepare(piece))[1]
        try:
            return hold(self, dtype)
        finally:
            self.latents.prepare = prepare

    monkeypatch.setattr(rows.Rows, "_hold", with_little_room)
    run = guidance(references=given)
    held = run.comparison.space.rows.held
    assert full.count > 0 and (held is None if kind is None else held.dtype == kind)
    guided = run(x0, x, 5.0)
    torch.testing.assert_close(guided, expected, rtol=1e-2, atol=1e-2)
    if kind is None:
        assert torch.equal(guided, expected)
    assert not torch.allclose(guided, x0, atol=1e-2)
