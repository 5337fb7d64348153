"""The emoji world's measures do as they say, and its judge knows pictures it never saw."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EMOJI = Path(__file__).absolute().parent / "emoji"
sys.path.append(str(EMOJI))
import measures  # noqa: E402


@pytest.fixture
def pictures(rng) -> torch.Tensor:
    """Six pictures of noise (6, 3, 16, 16)."""
    return torch.randn(6, 3, 16, 16, generator=rng)


def test_shares_count_the_highest_scores():
    scores = torch.tensor([[0.1, 0.9, 0.0], [3.0, -1.0, 2.0], [0.0, 5.0, 4.0], [0.0, 0.1, 0.0]])
    assert measures.shares(scores) == [0.25, 0.75, 0.0]


def test_rivals_are_different_names_and_never_the_own(rng):
    own = torch.arange(20)
    rivals = measures.draw_rivals(own, 20, 19, rng)
    everybody = torch.cat([own[:, None], rivals], 1).sort(1)[0]
    assert torch.equal(everybody, torch.arange(20).expand(20, 20))
    seen = measures.draw_rivals(own.repeat(200), 20, 3, rng).flatten().bincount(minlength=20)
    assert seen.min() > 0.8 * seen.max()


def test_name_ranks_count_the_rivals_that_fit_at_least_as_well(rng):
    scores = torch.randn(30, 50, generator=rng)
    own = torch.randint(50, (30,), generator=rng)
    rivals = measures.draw_rivals(own, 50, 9, rng)
    expected = [
        1 + sum(float(line[rival]) >= float(line[name]) for rival in few)
        for line, name, few in zip(scores, own, rivals, strict=True)
    ]
    assert measures.name_ranks(scores, own, rivals).tolist() == expected
    assert measures.name_ranks(torch.zeros(30, 50), own, rivals).tolist() == [10] * 30
    found = measures.adherence(torch.tensor([1, 3, 1, 7]))
    assert found == {"own name first": 0.5, "mean rank": 3.0}


def test_mmd2_is_about_nothing_for_one_distribution_and_grows_with_the_distance(rng):
    real = torch.randn(150, 8, generator=rng)
    same, near, far = (torch.randn(150, 8, generator=rng) + shift for shift in (0, 0.5, 2))
    values = [measures.mmd2(samples, real) for samples in (same, near, far)]
    assert abs(values[0]) < 0.01 < values[1] < values[2]
    turn = torch.linalg.qr(torch.randn(8, 8, generator=rng))[0]
    assert measures.mmd2(far @ turn * 3, real @ turn * 3) == pytest.approx(values[2], rel=1e-4)


def test_copies_are_nearer_than_fresh_pictures(pictures, rng):
    fresh = torch.randn(6, 3, 16, 16, generator=rng)
    assert measures.nearest_by_fresh(pictures.flip(0), pictures, fresh) == 0
    assert measures.nearest_by_fresh(fresh, pictures, fresh) == 1
    between = pictures.lerp(fresh, 0.5)
    assert 0.3 < measures.nearest_by_fresh(between, pictures, fresh) < 0.7


def test_bands_share_out_the_variance_of_the_pixels(pictures):
    bands = measures.band_variances(pictures)
    expected = np.var(pictures.double().numpy(), axis=0).mean()
    assert sum(bands) == pytest.approx(expected, rel=1e-9)
    assert measures.band_variances(pictures + pictures[:1]) == pytest.approx(bands)


@pytest.mark.parametrize(("cycles", "band"), [(1, 0), (6, 1), (24, 2)])
def test_a_wave_lies_in_the_band_of_its_frequency(cycles, band):
    wave = torch.cos(2 * torch.pi * cycles * torch.arange(64) / 64)
    pictures = torch.stack([wave, -wave])[:, None, None].expand(2, 3, 64, 64)
    bands = measures.band_variances(pictures)
    assert bands[band] == pytest.approx(0.5, rel=1e-5)
    assert sum(bands) - bands[band] < 1e-9


def test_sharpness_is_the_difference_of_neighbours():
    board = torch.arange(16)[:, None] + torch.arange(16)
    board = (board % 2).float().expand(2, 3, 16, 16)
    assert measures.sharpness(board) == pytest.approx(1.0)
    stripes = (torch.arange(16) % 2).float().expand(2, 3, 16, 16)
    assert measures.sharpness(3 * stripes) == pytest.approx(3 * 0.5**0.5)
    assert measures.sharpness(torch.full((2, 3, 16, 16), 0.7)) == 0


class Oracle(torch.nn.Module):
    """Knows the picture where it is told a word, and nothing otherwise."""

    def __init__(self, latents: torch.Tensor):
        super().__init__()
        self.latents = latents

    def forward(self, x: torch.Tensor, time: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        time = time[:, None, None, None]
        noise = (x - (1 - time) * self.latents) / time
        return (noise - self.latents) * words.any(1)[:, None, None, None]


def test_prompt_gain_is_the_error_that_the_words_take_away(rng):
    latents = torch.full((64, 4, 16, 16), 2.0)
    words = torch.tensor([[3, 0]] * 32 + [[0, 0]] * 32)
    gain = measures.prompt_gain(Oracle(latents), latents, words, rng)
    assert gain[:32].mean() == pytest.approx(100 * (2.0**2 + 1), rel=0.02)
    assert gain[32:].abs().max() == 0
