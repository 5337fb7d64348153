"""Guidance of thousands of images takes minutes on a CPU: how much is computed between two looks for an interrupt."""

import pytest
import torch
from mmd_pack.mmd_core import Execution, Guidance, GuidanceConfig, KernelConfig, Latents, Schedule
from mmd_pack.mmd_core.comparison import by_patches, landmarks, rows
from mmd_pack.mmd_core.guidance.contrast import Base
from mmd_tests.support.guidance_runs import EVERYWHERE, SIGMAS, equal, latents
from mmd_tests.support.products import Products

N, SHAPE, D = 7, (4, 3, 3), 36
CASES = {
    "flow": {},
    "energy": {"kernel": KernelConfig(kernel="energy")},
    "linear": {"kernel": KernelConfig(kernel="linear")},
    "palette": {"kernel": KernelConfig(feature_space="palette")},
    "keep_prompt": {"mode": "keep_prompt"},
    "paper": {"mode": "paper"},
    "official": {"mode": "official"},
}


def run(rng, batch, base=False, budget=1e18, **config):
    """Guidance of two model calls and its record; returns the products counted."""
    y, x0 = latents(rng, N, shape=SHAPE), latents(rng, batch, 0.4, SHAPE)
    products = Products()
    with products:
        guidance = Guidance(
            GuidanceConfig(strength=5.0, **config),
            Latents(y, equal(N)),
            Schedule(SIGMAS, EVERYWHERE),
            execution=Execution(True, budget, check=products.looked),
            base=Base(y + 1, equal(N), None) if base else None,
        )
        for sigma in SIGMAS[:2]:
            guidance(x0, x0 + sigma * torch.ones_like(x0), sigma)
        guidance.finished(x0)
    return products


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", CASES)
def test_at_most_two_products_of_all_images_lie_between_two_looks(rng, name):
    batch = 32
    products = run(rng, batch, **CASES[name])
    assert products.count > 20
    assert products.most <= 2.1 * batch * (batch + N) * max(batch, D)


def test_so_it_is_with_base_images_and_with_references_that_do_not_fit(rng):
    batch = 32
    for options in ({"base": True}, {"budget": 0.0}):
        assert run(rng, batch, **options).most <= 2.1 * batch * (batch + 2 * N) * (batch + N)


def test_patches_of_more_images_are_no_longer_without_a_look(rng, monkeypatch):
    monkeypatch.setattr(by_patches, "CHUNK", 8)
    for module in (by_patches, landmarks):
        monkeypatch.setattr(module, "LANDMARKS", 16)
    kernel = KernelConfig(feature_space="patches", patch_size=2)
    most = {run(rng, batch, kernel=kernel).most for batch in (8, 16)}
    assert len(most) == 1


def test_a_long_product_is_divided(monkeypatch, rng):
    looked = []
    y = torch.randn(40, 30, generator=rng, dtype=torch.float64)
    held = rows.Rows(Latents(y, equal(40)), check=lambda: looked.append(1))
    whole, before = held.gram(), len(looked)
    monkeypatch.setattr(rows, "LONG", 30 * 40 * 8)  # 8 rows at a time
    assert torch.allclose(held.gram(), whole, atol=1e-12)
    assert len(looked) - before >= 5


def test_an_exception_of_the_look_ends_the_run(rng):
    class Stopped(Exception):
        pass

    def stop():
        raise Stopped

    y = latents(rng, N, shape=SHAPE)
    with pytest.raises(Stopped):
        Guidance(
            GuidanceConfig(), Latents(y, equal(N)), Schedule(SIGMAS, EVERYWHERE),
            execution=Execution(check=stop),
        )  # fmt: skip
